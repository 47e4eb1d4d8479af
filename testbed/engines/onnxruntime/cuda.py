"""ONNX Runtime on the CUDA provider: TF32 off, deterministic kernels, no convolution search that could end differently.

Weights that can be struck are inputs held on the GPU: a change is one copy to the device, and nothing is rebuilt.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import time
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from testbed.core.errors import EngineError
from testbed.engines.onnxruntime.cpu import (
    first_line,
    given_weights,
    ort_value,
    register_fault_ports,
    session,
    session_options,
)
from testbed.engines.runner import Arrays, BaseRunner, EngineInfo, EngineRequest
from testbed.engines.signature import loaded, signature_of
from testbed.engines.weights import weights_as_inputs

PROVIDER = "CUDAExecutionProvider"
PROVIDER_OPTIONS = {
    "device_id": "0",
    "use_tf32": "0",
    "cudnn_conv_algo_search": "HEURISTIC",  # the default one times candidates, and may choose another one next time
}


class OrtCudaRunner(BaseRunner):
    """Raises EngineError when ONNX Runtime refuses the model or falls back to the CPU."""

    library = "ONNX Runtime"
    takes_weights = True
    provider: Any = (PROVIDER, PROVIDER_OPTIONS)
    device = "cuda"

    def __init__(self, request: EngineRequest) -> None:
        proto = loaded(request.onnx)
        self._signature = signature_of(proto)
        self._weights: dict[str, NDArray] = {}
        model = request.onnx
        if request.mutable_weights:
            model, self._weights = weights_as_inputs(model, request.weights)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()  # CUDA and cuDNN from NVIDIA's Python packages, where the system has none
        options = session_options(request)
        register_fault_ports(proto, options)
        beside = given_weights(loaded(model), request, options)
        self._session: Any = session(model, options, [self.provider])
        del beside  # the session has what it needs
        self._on_device = {name: ort_value(array, self.device) for name, array in self._weights.items()}
        self.info = self._info(request)

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        self._opened(self._session)
        arrays = self._signature.checked(feeds)
        try:
            binding = self._session.io_binding()
            for name, array in arrays.items():
                binding.bind_ortvalue_input(name, ort_value(array))
            for name, value in self._on_device.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._signature.outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            return dict(zip(self._signature.outputs, map(_copied, binding.get_outputs()), strict=True))
        except Exception as error:  # ONNX Runtime's error types are private
            raise EngineError(f"ONNX Runtime failed: {first_line(error)}") from error

    def phases(self, feeds: Arrays) -> dict[str, float]:
        """See `PhasedRunner`: by the host's clock, since ONNX Runtime gives no events; its copies and its runs wait for the
        device."""
        arrays = self._signature.checked(feeds)
        marks = [time.perf_counter()]
        binding = self._session.io_binding()
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort_value(array, self.device))
        for name, value in self._on_device.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._signature.outputs:
            binding.bind_output(name, self.device)
        binding.synchronize_inputs()
        marks.append(time.perf_counter())
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        marks.append(time.perf_counter())
        binding.copy_outputs_to_cpu()
        marks.append(time.perf_counter())
        names = ("h2d_ms", "compute_ms", "d2h_ms")
        return {name: 1e3 * (b - a) for name, a, b in zip(names, marks, marks[1:], strict=False)}

    def weight(self, tensor: str) -> NDArray:
        """The host's copy; a change acts after ``weight_changed``. Raises EngineError without mutable weights."""
        return self._mutable_weight(self._weights, tensor)

    def weight_changed(self, tensor: str) -> None:
        self._on_device[tensor] = ort_value(self._weights[tensor], self.device)

    def close(self) -> None:
        self._session = None
        self._on_device.clear()
        self._weights.clear()

    def _info(self, request: EngineRequest) -> EngineInfo:
        options = {
            "threads": request.threads,
            "mutable_weights": request.mutable_weights,
            "weights": "inputs" if request.mutable_weights else "stored",
            "deterministic_compute": True,
            "provider_options": self._session.get_provider_options().get(PROVIDER, {}),
        }
        versions = {"onnxruntime": ort.__version__}
        return EngineInfo("ort-cuda", request.precision, request.file_sha256, request.deployment_id, options, versions)


def _copied(value: Any) -> NDArray:
    """An output in host memory as an array. ONNX Runtime does not hand bfloat16 to NumPy itself."""
    if value.element_type() != TensorProto.BFLOAT16:
        return np.array(value.numpy())
    shape = value.shape()
    words = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.array(words, np.uint16).view(ml_dtypes.bfloat16).reshape(shape)
