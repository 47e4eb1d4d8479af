"""ONNX -> ONNX: weights as graph inputs, for engines that copy, fold or repack the weights stored in a file.

What an engine is fed it must read anew at every run, so a fault in the fed array acts at once and nothing is rebuilt.
Such an engine is another one than that of the plain file: it has its own hash and its own golden.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from testbed.engines.model_file import Weights, numbers_of

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
