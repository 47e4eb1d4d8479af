"""TensorRT and TensorRT-RTX: engines built from the same ONNX files, run on the first GPU.

Weights are struck by refitting: the changed tensor is given to the engine, which is not rebuilt. A refittable engine is
checked once, before any fault, against a plain one: refitting has been seen to lose a bias with nothing changed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import EngineError
from testbed.core.folder.files import sha256_bytes
from testbed.engines.cuda import Buffer, Device
from testbed.engines.gpu import cuda_devices
from testbed.engines.runner import Arrays, BaseRunner, EngineInfo, EngineRequest
from testbed.engines.signature import Signature, loaded, signature_of
from testbed.engines.tensorrt.build import Build, cached_plan, deserialised, explain, logger_for, tensorrt_library
from testbed.engines.weights import strikable_weights

_NULL_OUTPUT_BOUND = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 1e-1, "int8": 1e-1}  # of outputs scaled to order 1


class TensorRtRunner(BaseRunner):
    """Raises EngineError where the model cannot be built, or the engine file not be used on this GPU."""

    library = "TensorRT"
    backend = "tensorrt"

    _engine: _LoadedEngine | None

    def __init__(self, request: EngineRequest) -> None:
        proto = loaded(request.onnx)
        self._build = Build(self.backend, request.max_batch, request.max_points, request.mutable_weights)
        self._signature = signature_of(proto)
        self._weights = strikable_weights(proto) if request.mutable_weights else {}
        with ExitStack() as stack:
            device = stack.enter_context(Device())
            self.info, plan = self._built(request, device)
            engine = self._engine = _LoadedEngine(self.backend, plan, self._signature, device)
            stack.callback(engine.close)
            if request.mutable_weights:
                self._check_null_output(request)
            self._stack = stack.pop_all()

    def _built(self, request: EngineRequest, device: Device) -> tuple[EngineInfo, bytes]:
        trt = tensorrt_library(self.backend)
        gpu = gpu_name()
        plan = cached_plan(request.onnx, sha256_bytes(request.onnx), self._build, gpu)
        options = {
            "gpu": gpu,
            "max_batch": request.max_batch,
            "max_points": request.max_points,
            "mutable_weights": request.mutable_weights,
            "weights": "refit" if request.mutable_weights else "stored",
            "tf32": False,
            "strict_nans": hasattr(trt.BuilderFlag, "STRICT_NANS"),
            "plan_sha256": sha256_bytes(plan),  # each build may choose other kernels
            "driver": device.driver.name,
        }
        versions = {self.backend: str(trt.__version__)}
        hashes = (request.file_sha256, request.deployment_id)
        return EngineInfo(self.backend, request.precision, *hashes, options, versions), plan

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        engine = self._open()
        arrays = self._signature.checked(feeds)
        rows = max((array.shape[0] for array in arrays.values() if array.ndim), default=1)
        if rows > self._build.max_batch:
            raise EngineError(f"a batch of {rows} is more than the {self._build.max_batch} this engine was built for")
        if (points := self._signature.points(arrays)) > self._build.max_points:
            raise EngineError(
                f"faults of {points} elements are more than the {self._build.max_points} this engine was built for"
            )
        return engine.run(arrays)

    def _open(self) -> _LoadedEngine:
        return self._opened(self._engine)

    def weight(self, tensor: str) -> NDArray:
        """The host's copy; a change acts after ``weight_changed``. Raises EngineError without mutable weights, and for
        a tensor that this engine cannot be refitted with."""
        weight = self._mutable_weight(self._weights, tensor)
        self._open().require_refittable(tensor)
        return weight

    def weight_changed(self, tensor: str) -> None:
        self._open().refit(tensor, self._weights[tensor])

    def close(self) -> None:
        self._engine = None
        self._weights.clear()
        self._stack.close()

    def _check_null_output(self, request: EngineRequest) -> None:
        feeds = _example(self._signature)
        with type(self)(replace(request, mutable_weights=False)) as plain:
            wanted = plain.run(feeds)
        outputs = self._open().run(self._signature.checked(feeds))
        for name, ours in outputs.items():
            theirs = wanted[name].astype(np.float64)
            scale = max(1.0, float(np.abs(theirs).max(initial=0)))
            worst = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0)) / scale
            if not worst <= _NULL_OUTPUT_BOUND[request.precision]:
                raise EngineError(
                    f"the refittable engine's {name} is {worst:.3g} off the plain engine's with no weight changed;"
                    " weight faults cannot be trusted on this version of TensorRT"
                )


class TensorRtRtxRunner(TensorRtRunner):
    """The same interface on TensorRT-RTX."""

    backend = "tensorrt-rtx"


class _LoadedEngine:
    """A deserialised engine with its execution context and device buffers, which are reused from run to run."""

    def __init__(self, backend: str, plan: bytes, signature: Signature, device: Device) -> None:
        self._trt, self._signature, self._device = tensorrt_library(backend), signature, device
        self._logger = logger_for(self._trt)
        self._engine = deserialised(self._trt, self._logger, plan)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"TensorRT cannot run this engine: {explain(self._logger.errors)}")
        self._buffers: dict[tuple[str, tuple[int, ...]], Buffer] = {}
        self._refitter: Any = None

    def run(self, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        self._logger.errors.clear()
        for name, array in arrays.items():
            buffer = self._buffer(name, array.shape, array.dtype)
            if array.nbytes:
                self._device.driver.to_device(buffer.pointer, array.reshape(-1).view(np.uint8))
            self._succeed(self._context.set_input_shape(name, array.shape))
            self._succeed(self._context.set_tensor_address(name, buffer.pointer))
        outputs = {name: self._output(name) for name in self._signature.outputs}
        self._succeed(self._context.execute_async_v3(0))
        return {name: self._device.download(buffer) for name, buffer in outputs.items()}

    def _output(self, name: str) -> Buffer:
        shape = tuple(self._context.get_tensor_shape(name))
        buffer = self._buffer(name, shape, _numpy_type(self._trt, self._engine.get_tensor_dtype(name)))
        self._succeed(self._context.set_tensor_address(name, buffer.pointer))
        return buffer

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Buffer:
        if (name, shape) not in self._buffers:
            self._buffers[(name, shape)] = self._device.empty(shape, dtype)
        return self._buffers[(name, shape)]

    def _succeed(self, done: Any) -> None:
        if not done:
            raise EngineError(f"TensorRT failed: {explain(self._logger.errors)}")

    def require_refittable(self, tensor: str) -> None:
        if self._refitter is None:
            self._refitter = self._trt.Refitter(self._engine, self._logger)
        if tensor not in self._refitter.get_all_weights():
            raise EngineError(f"weight {tensor!r} cannot be struck here: TensorRT fused it into another tensor")

    def refit(self, tensor: str, array: NDArray) -> None:
        """Raises EngineError when TensorRT refuses, or wants other weights with it."""
        self._logger.errors.clear()
        kind = self._refitter.get_weights_prototype(tensor).dtype
        if array.dtype != _numpy_type(self._trt, kind):
            raise EngineError(f"weight {tensor!r} is held as {kind} by TensorRT, not as {array.dtype}")
        weights = self._trt.Weights(kind, array.ctypes.data, array.size)
        self._succeed(self._refitter.set_named_weights(tensor, weights))
        if missing := self._refitter.get_missing_weights():
            raise EngineError(f"TensorRT wants {', '.join(missing[:4])} refitted together with {tensor}")
        self._succeed(self._refitter.refit_cuda_engine())
        self._device.synchronize()

    def close(self) -> None:
        """Frees the engine before the device goes, and in the order that TensorRT asks for."""
        self._refitter = self._context = self._engine = None


def gpu_name() -> str:
    """Raises EngineError where there is no GPU."""
    devices, reason = cuda_devices()
    if not devices:
        raise EngineError(f"TensorRT needs a GPU: {reason}")
    return devices[0]


def _numpy_type(trt: Any, kind: Any) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if kind == trt.DataType.BF16 else np.dtype(trt.nptype(kind))


def _example(signature: Signature) -> dict[str, NDArray]:
    """One row of everything: normal for numbers, zero for indices."""
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray] = {}
    for value in signature.inputs:
        shape = tuple(d if isinstance(d, int) else 1 for d in value.shape)
        whole = value.dtype.kind in "iub"
        feeds[value.name] = np.zeros(shape, value.dtype) if whole else rng.standard_normal(shape).astype(value.dtype)
    return feeds
