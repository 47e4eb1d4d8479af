"""Precision, decided in the ONNX graph: the whole graph cast to fp16 or bf16, or statically quantised to int8 (Q/DQ).

Engines that type strongly (TensorRT 11) then do what the file says, and tensors keep their sites' names. Inputs and
outputs stay fp32.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from pydantic import JsonValue

from testbed.core.errors import TestbedError, UsageError
from testbed.core.words.nearest import unknown

CALIBRATION_METHODS = ("MinMax", "Entropy", "Percentile")  # of ONNX Runtime's that its quantiser takes for int8
_TYPES = {
    "fp16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bf16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
QUANTISED_OPS = ("MatMul", "Gemm", "Conv")


def cast_model(plain: ModelProto, precision: str) -> ModelProto:
    """Every float32 tensor of the graph as ``precision`` ("fp16" or "bf16"), between casts at its input and outputs.

    Initializers keep their names. Raises TestbedError naming a weight that overflows the format.
    """
    element, dtype = _TYPES[precision]
    proto = ModelProto()
    proto.CopyFrom(plain)
    graph = proto.graph
    for tensor in graph.initializer:
        _cast_tensor(tensor, element, dtype)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _cast_tensor(attribute.t, element, dtype)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = element
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = element
    _cast_inputs(proto, element)
    _cast_outputs(proto, element)
    onnx.checker.check_model(proto)
    return proto


def _cast_tensor(tensor: TensorProto, element: int, dtype: np.dtype) -> None:
    if tensor.data_type != TensorProto.FLOAT:
        return
    array = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if not np.isfinite(narrow.astype(np.float32)).all() and np.isfinite(array).all():
        raise TestbedError(f"{tensor.name or 'a constant'} holds {np.abs(array).max():g}, too large for {dtype.name}")
    name = tensor.name
    tensor.CopyFrom(helper.make_tensor(name, element, array.shape, np.ascontiguousarray(narrow).tobytes(), raw=True))


def _cast_inputs(proto: ModelProto, element: int) -> None:
    graph = proto.graph
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            for node in graph.node:
                node.input[:] = [f"{value.name}/narrow" if name == value.name else name for name in node.input]
            cast = helper.make_node(
                "Cast", [value.name], [f"{value.name}/narrow"], name=f"{value.name}/cast", to=element
            )
            graph.node.insert(0, cast)


def _cast_outputs(proto: ModelProto, element: int) -> None:
    """The graph's output becomes ``NAME/fp32``; the site's own tensor keeps its name."""
    graph = proto.graph
    outputs = [value for value in graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    for value in outputs:
        wide = f"{value.name}/fp32"
        graph.node.append(
            helper.make_node("Cast", [value.name], [wide], name=f"{value.name}/cast", to=TensorProto.FLOAT)
        )
        inner = graph.value_info.add()
        inner.CopyFrom(value)
        inner.type.tensor_type.elem_type = element
        value.name = wide


@dataclass(frozen=True)
class Calibration:
    """How int8 ranges were found; recorded with the engine."""

    images: int
    method: str = "MinMax"
    source: str = "train"

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)


def quantise(plain: ModelProto, inputs: NDArray[np.float32], calibration: Calibration) -> ModelProto:
    """Static int8 (symmetric, per tensor, Q/DQ) by ONNX Runtime's quantiser. inputs: (images, ...) calibration inputs.

    Weights become int8 initializers ``NAME_quantized`` with ``NAME_scale`` and ``NAME_zero_point``; activations that enter
    a MatMul, Gemm or Conv pass through QuantizeLinear and DequantizeLinear. Raises UsageError for an unknown method.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    if calibration.method not in CALIBRATION_METHODS:
        raise UsageError(unknown("calibration method", calibration.method, CALIBRATION_METHODS))
    name = plain.graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.array_split(inputs, max(1, len(inputs) // 32)))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: np.ascontiguousarray(batch)}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        onnx.save(plain, str(source))
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED_OPS),
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[calibration.method],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "ForceQuantizeNoInputCheck": False},
        )
        quantised = onnx.load(str(target))
    onnx.checker.check_model(quantised)
    return quantised


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
