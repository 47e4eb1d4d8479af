"""Models as files: one file, or from 2 GiB on one that names its weights and one beside it that holds them.

Such weights are mapped, so that several engines share the memory they take.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.core.errors import EngineError
from testbed.engines.runner import EngineRequest
from testbed.engines.signature import loaded

Weights = Mapping[str, NDArray]
"""Name -> the numbers, in the shape and format that the model states."""


def request_from(path: Path, deployment_id: str, **options: Any) -> EngineRequest:
    """A request for a model's file. options: the other fields. Raises EngineError as `weights_beside`."""
    content = path.read_bytes()
    return EngineRequest.of_bytes(content, deployment_id, weights=weights_beside(content, path.parent), **options)


def is_beside(tensor: TensorProto) -> bool:
    """Whether the model only names this weight."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def weights_beside(model: bytes, folder: Path) -> dict[str, NDArray]:
    """Map the weights that a model of the testbed keeps in a file of its folder; none where it holds them all.

    Changes of an array are its own and never reach the file. Raises EngineError where the file is not there, is cut off, or
    lies elsewhere.
    """
    if b"location" not in model:  # the key of every such weight: most models need not be parsed for that
        return {}
    return {tensor.name: _mapped(tensor, folder) for tensor in loaded(model).graph.initializer if is_beside(tensor)}


def _mapped(tensor: TensorProto, folder: Path) -> NDArray:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, offset, length = entries.get("location", ""), int(entries["offset"]), int(entries["length"])
    file = folder / location
    if file.parent.resolve() != folder.resolve():
        raise EngineError(f"weight {tensor.name!r} is said to lie in {location!r}, outside the model's folder")
    if not file.is_file() or file.stat().st_size < offset + length:
        raise EngineError(f"weight {tensor.name!r} cannot be read: {file} is not there, or is cut off")
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    lying = np.memmap(file, np.uint8, "c", offset, (length,)).view(np.ndarray)
    return lying.view(dtype).reshape(tuple(tensor.dims))


def named_weights(proto: ModelProto, weights: Weights) -> dict[str, NDArray]:
    """The weights that a model only names. Raises EngineError for one that is not given."""
    return {tensor.name: numbers_of(tensor, weights) for tensor in proto.graph.initializer if is_beside(tensor)}


def numbers_of(tensor: TensorProto, weights: Weights) -> NDArray:
    """A stored tensor, wherever it lies. Raises EngineError where that is another file, and it is not given."""
    if not is_beside(tensor):
        return numpy_helper.to_array(tensor)
    if tensor.name not in weights:
        raise EngineError(f"weight {tensor.name!r} lies in another file, and is not given with the model")
    return weights[tensor.name]
