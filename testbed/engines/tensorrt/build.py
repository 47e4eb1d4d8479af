"""ONNX -> a TensorRT engine file, for TensorRT 10 or 11 and for TensorRT-RTX, which share a Python interface.

Precision is in the file (strong typing); TF32 is off, and NaNs are kept where the library offers it. TensorRT-RTX builds
on a machine without a GPU; TensorRT needs the GPU that the engine is for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from testbed.core.errors import EngineError
from testbed.core.folder.cache import cache_folder
from testbed.core.folder.files import sha256_json, write_bytes
from testbed.engines.signature import POINTS, Input, Signature, loaded, signature_of

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL = {"tensorrt": "pip install tensorrt", "tensorrt-rtx": "pip install tensorrt-rtx-cu13"}
_FOLDED = {"Constant", "Reshape", "Concat", "Squeeze", "Unsqueeze", "Gather", "Slice", "Identity"}
_EXPLANATIONS = (
    (
        r"magicTag|serialization version|Version tag|compatible with .*version",
        "it is damaged, or was built by another version of TensorRT; build it again",
    ),
    (
        r"compute capability|different device|different GPU|hardware compat",
        "it was built for another GPU; build it again on this one",
    ),
    (
        r"driver version is insufficient|no CUDA-capable device|cudaError (35|100)",
        "there is no NVIDIA GPU with its driver",
    ),
)


@dataclass(frozen=True)
class Build:
    """What an engine file is built for. ``max_batch``: the largest batch it takes. ``max_points``: the most struck
    elements per row of a twin. ``refittable``: its weights can be changed while it lives."""

    backend: str
    max_batch: int = 64
    max_points: int = 1
    refittable: bool = False

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(batch, points): least, usual, most."""
        most = (self.max_batch, self.max_points)
        return (1, 1), most, most


def tensorrt_library(backend: str) -> Any:
    """The Python module. Raises EngineError where it is not installed."""
    try:
        return import_module(MODULES[backend])
    except Exception as error:  # a wheel without its libraries fails in its own ways
        raise EngineError(f"{MODULES[backend]} does not import ({error}): {INSTALL[backend]}") from error


def logger_for(trt: Any) -> Any:
    """A logger that keeps the errors (``.errors``) for our own messages, and prints nothing."""

    class ErrorLog(trt.ILogger):  # type: ignore[name-defined, misc, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return ErrorLog()


def build_ahead_of_time(model: bytes, build: Build | None = None) -> bytes:
    """The serialised engine. By default for TensorRT-RTX, which needs no GPU for it.

    Raises EngineError naming the node that TensorRT does not take, or what else it refused.
    """
    build = build or Build("tensorrt-rtx")
    proto = loaded(model)
    if own := next((n for n in proto.graph.node if n.domain not in ("", "ai.onnx")), None):
        raise EngineError(
            f"TensorRT has no operator {own.domain}::{own.op_type} here; make the twin with mechanism gated_replace"
        )
    trt = tensorrt_library(build.backend)
    logger = logger_for(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(fold_constants(proto)):
        raise EngineError(f"TensorRT cannot read this model: {_parser_reason(parser, logger.errors)}")
    config = _config(trt, builder, signature_of(proto), build)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT cannot build this model: {explain(logger.errors)}")
    return bytes(memoryview(plan))


def fold_constants(proto: ModelProto) -> bytes:
    """Fold two kinds of constant graphs of the model into initializers: whole numbers computed from whole numbers
    (TensorRT wants the axes of a reduction stored, exporters compute them), and int32 biases, dequantised (it has no
    int32 DequantizeLinear; such a bias is then no weight that could be struck)."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    integers = {n: numpy_helper.to_array(t) for n, t in stored.items() if t.data_type == TensorProto.INT64}
    kept = []
    for node in proto.graph.node:
        if (value := _folded(node, stored, integers)) is None:
            kept.append(node)
        elif value.dtype == np.int64:
            integers[node.output[0]] = value
        else:
            stored[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    new = ModelProto()
    new.CopyFrom(proto)
    del new.graph.node[:], new.graph.initializer[:]
    new.graph.node.extend(kept)
    stored |= {name: numpy_helper.from_array(value, name) for name, value in integers.items()}
    new.graph.initializer.extend(stored.values())
    return bytes(new.SerializeToString())


def _folded(node: NodeProto, stored: Mapping[str, TensorProto], integers: Mapping[str, NDArray]) -> NDArray | None:
    """The node's value, if it is one to fold."""
    bias = node.op_type == "DequantizeLinear" and node.input[0] in stored
    if bias and stored[node.input[0]].data_type == TensorProto.INT32:
        given = {name: numpy_helper.to_array(stored[name]) for name in node.input}
    elif node.op_type in _FOLDED and all(name in integers for name in node.input):
        given = {name: integers[name] for name in node.input}
    else:
        return None
    value = np.asarray(ReferenceEvaluator(node).run(None, given)[0])  # type: ignore[index, unused-ignore]
    return value if bias or value.dtype == np.int64 else None


def _network_flags(trt: Any) -> int:
    """TensorRT 11 types strongly without being asked."""
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strongly is None else 1 << int(strongly)


def _config(trt: Any, builder: Any, signature: Signature, build: Build) -> Any:
    config = builder.create_builder_config()
    flags = trt.BuilderFlag
    if hasattr(flags, "TF32"):
        config.clear_flag(flags.TF32)
    if hasattr(flags, "STRICT_NANS"):
        config.set_flag(flags.STRICT_NANS)
    if build.refittable:
        config.set_flag(flags.REFIT)
    profile = builder.create_optimization_profile()
    for value in signature.inputs:
        profile.set_shape(value.name, *(profile_shape(value, *sizes) for sizes in build.sizes))
    config.add_optimization_profile(profile)
    return config


def profile_shape(value: Input, batch: int, points: int) -> tuple[int, ...]:
    """Shape of an input for so many rows and fault points, as a profile of the engine states it."""
    return tuple(d if isinstance(d, int) else points if d == POINTS else batch for d in value.shape)


def _parser_reason(parser: Any, errors: list[str]) -> str:
    parser_errors = [parser.get_error(number) for number in range(parser.num_errors)]
    if not parser_errors:
        return explain(errors)
    return _one_line(
        f"{parser_errors[0].node_name()}: {parser_errors[0].desc()}"
        if hasattr(parser_errors[0], "node_name")
        else parser_errors[0].desc()
    )


def deserialised(trt: Any, logger: Any, plan: bytes) -> Any:
    """Raises EngineError, in a line, for an engine that is damaged, or of another version or GPU."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT cannot use this engine file: {explain(logger.errors)}")
    return engine


def explain(errors: list[str]) -> str:
    """TensorRT's errors in a line: what they mean where we know it, else the first of them."""
    for pattern, meaning in _EXPLANATIONS:
        if hit := next((message for message in errors if re.search(pattern, message)), None):
            return f"{meaning} ({_one_line(hit)})"
    return _one_line(errors[0]) if errors else "it gives no reason"


def _one_line(message: str) -> str:
    return " ".join(message.split())[:300]


def cached_plan(model: bytes, file_sha256: str, build: Build, device: str) -> bytes:
    """The engine file from the cache, where it is named by everything that it was made from; built on first use."""
    version = str(tensorrt_library(build.backend).__version__)
    made_from = {"file": file_sha256, "device": device, "version": version, **build.__dict__}
    path = cache_folder() / "tensorrt" / f"{sha256_json(made_from)}.plan"
    if path.is_file():
        return path.read_bytes()
    plan = build_ahead_of_time(model, build)
    write_bytes(path, plan)
    return plan
