"""The weights of a model: where they lie, which of them a fault can strike, and as inputs of the graph.

From 2 GiB on they lie in a file beside the model, mapped, so that several engines share the memory they take. Engines that
copy, fold or repack the weights stored in a file are fed them instead: what is fed they must read anew at every run, so that
a fault in the fed array acts at once and nothing is rebuilt. Such an engine is another one than that of the plain file: it
has its own hash and its own golden.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
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


STRIKABLE = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
}
"""Element types of weights that a fault can strike; int64 initializers are shapes and axes, which the graph is built
from."""


def strikable_weights(model: onnx.ModelProto, beside: Weights | None = None) -> dict[str, NDArray]:
    """Writable copies of the weights that a fault can strike, by name, as they are stored. beside: those that the model only
    names."""
    return {
        tensor.name: np.array(numbers_of(tensor, beside or {}), order="C")
        for tensor in model.graph.initializer
        if tensor.data_type in STRIKABLE
    }


def weights_as_inputs(model: bytes, beside: Weights | None = None) -> tuple[bytes, dict[str, NDArray]]:
    """The file with every strikable weight as a further graph input, and the arrays to feed, by input name."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    weights = strikable_weights(proto, beside)
    declared = {value.name for value in graph.input}  # overridable initializers are inputs already
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.name in weights and tensor.name not in declared
    )
    kept = [tensor for tensor in graph.initializer if tensor.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return proto.SerializeToString(), weights
