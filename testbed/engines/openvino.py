"""OpenVINO on the CPU: a second compiler for the same files.

It packs a file's weights at compile time and never looks at them again, so an engine whose weights can be struck takes
them as inputs: nothing is rebuilt per fault, and the matrix products run in kernels for two variable operands. There, a
batch of one row takes a matrix-vector kernel whose last bits may differ from the same row's in a larger batch.
"""

from __future__ import annotations

import io
import logging
import platform
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import openvino as ov
from numpy.typing import NDArray

from testbed.core.errors import EngineError
from testbed.engines.rounding import rounded_ports
from testbed.engines.runner import Arrays, BaseRunner, EngineInfo, EngineRequest
from testbed.engines.signature import loaded, signature_of
from testbed.engines.weights import weights_as_inputs

log = logging.getLogger(__name__)

_DEVICE = "CPU"
_BF16 = np.dtype(ml_dtypes.bfloat16)
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
_CAPABILITIES = {"f16": "FP16", "bf16": "BF16"}
_REPORTED = (  # as the compiled model has them, whatever was asked for
    *("INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS"),
    *("CPU_DENORMALS_OPTIMIZATION", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "RUNTIME_REQUIREMENTS"),
)


@cache
def shared_core() -> Any:
    """The process's one Core, never closed.

    On Linux, each Core gives the thread that first compiles with it another stack for signal handlers, and takes that
    stack away when it is closed. Cores closed in another order than they were opened in leave a stack that is no more:
    the next signal, a Ctrl-C, then ends the process with SIGSEGV.
    """
    return ov.Core()


class OpenVinoRunner(BaseRunner):
    """Raises EngineError for a file that OpenVINO cannot read or compile."""

    library = "OpenVINO"

    def __init__(self, request: EngineRequest) -> None:
        self._signature = signature_of(loaded(request.onnx))
        self._weights: dict[str, NDArray] = {}
        model = request.onnx
        if request.mutable_weights:
            model, self._weights = weights_as_inputs(model)
        core = shared_core()
        hint = _precision_hint(core, request.precision)
        if request.precision in ("fp16", "bf16") and hint == "f32":
            model = rounded_ports(model, request.precision)
        try:
            compiled = core.compile_model(core.read_model(io.BytesIO(model)), _DEVICE, _config(request, hint))
            self._request: Any = compiled.create_infer_request()
            for name, array in self._weights.items():
                self._request.set_tensor(name, _shared(array))
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot build this model: {_reason(error)}") from error
        self.info = _info(request, compiled)

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        self._opened(self._request)
        arrays = self._signature.checked(feeds)
        try:
            self._request.infer({name: _shared(np.array(array)) for name, array in arrays.items()})
            return {name: _copied(self._request.get_tensor(name)) for name in self._signature.outputs}
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_reason(error)}") from error

    def weight(self, tensor: str) -> NDArray:
        """The array that the engine is fed; changes act on the next run. Raises EngineError without mutable weights."""
        return self._mutable_weight(self._weights, tensor)

    def close(self) -> None:
        self._request = None
        self._weights.clear()


def _precision_hint(core: Any, precision: str) -> str:
    """What to compute in: the graph's own precision where this CPU has instructions for it, else fp32."""
    hint = _HINTS[precision]
    if hint in _CAPABILITIES and _CAPABILITIES[hint] not in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"):
        _say_emulated(precision)
        return "f32"
    return hint


@cache
def _say_emulated(precision: str) -> None:
    """Once a process: gates build dozens of engines."""
    log.warning("openvino: this CPU computes %s in fp32; results are labelled emulated", precision)


def _config(request: EngineRequest, hint: str) -> dict[str, str | int]:
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": request.threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several engines on one host must not share a core
        "CPU_DENORMALS_OPTIMIZATION": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # activations are quantised where the file says so, and nowhere else
    }


def _shared(array: NDArray) -> Any:
    """An OpenVINO tensor over the array's memory."""
    if array.dtype == _BF16:
        return ov.Tensor(array.view(np.uint16), list(array.shape), ov.Type.bf16)
    return ov.Tensor(array, shared_memory=True)


def _copied(tensor: Any) -> NDArray:
    if tensor.element_type == ov.Type.bf16:
        return np.array(tensor.data).view(_BF16)
    return np.array(tensor.data)


def _info(request: EngineRequest, compiled: Any) -> EngineInfo:
    known = set(compiled.get_property("SUPPORTED_PROPERTIES"))  # not every version tells all of them
    reported = {name.lower(): _plain(compiled.get_property(name)) for name in _REPORTED if name in known}
    computes_in = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    options = {
        "threads": request.threads,
        "mutable_weights": request.mutable_weights,
        "weights": "inputs" if request.mutable_weights else "packed",
        "arithmetic": "emulated in fp32" if computes_in != _HINTS[request.precision] else computes_in,
        "machine": platform.machine(),
        **reported,
    }
    versions = {"openvino": ov.__version__}
    return EngineInfo("openvino", request.precision, request.file_sha256, request.deployment_id, options, versions)


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, ov.Type):
        return str(value.to_string())
    return value if isinstance(value, str | int | float | bool) else str(value)


def _reason(error: Exception) -> str:
    """OpenVINO's errors end with what went wrong, after the chain of places it went through."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "To facilitate the conversion"))]
    return (telling or lines or [type(error).__name__])[-1].removeprefix("-- ")[:300]
