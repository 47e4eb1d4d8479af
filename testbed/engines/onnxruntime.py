"""ONNX Runtime on the CPU provider.

Two settings of the same engine: as deployed, and with weights that can be struck in place. For the latter ONNX Runtime
must neither prepack nor fold nor own the weights, or a change would be silently ignored; callers prove per tensor
that it
is not (the canary), and such a session has its own hash and its own golden.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from testbed.core.errors import EngineError
from testbed.engines.runner import Arrays, BaseRunner, EngineInfo, EngineRequest

PROVIDER = "CPUExecutionProvider"


class OrtCpuRunner(BaseRunner):
    """Raises EngineError when ONNX Runtime refuses the model or falls back to another provider."""

    def __init__(self, request: EngineRequest) -> None:
        self._weights: dict[str, NDArray] = {}
        self._values: dict[str, Any] = {}
        options = _options(request)
        try:
            if request.mutable_weights:
                self._share_weights(request.onnx, options)
            self._session: Any = ort.InferenceSession(request.onnx, options, providers=[PROVIDER])
        except Exception as error:  # ONNX Runtime's error types are private, protobuf's is another package's
            raise EngineError(f"ONNX Runtime cannot build this model: {_first_line(error)}") from error
        if self._session.get_providers()[0] != PROVIDER:
            raise EngineError(
                f"ONNX Runtime fell back to {self._session.get_providers()[0]} although {PROVIDER} was asked for"
            )
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.info = _info(request)

    def _share_weights(self, model: bytes, options: Any) -> None:
        for tensor in onnx.load_from_string(model).graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                array = np.array(numpy_helper.to_array(tensor))  # a writable copy, which the session will read from
                self._weights[tensor.name] = array
                self._values[tensor.name] = ort.OrtValue.ortvalue_from_numpy(array)
                options.add_initializer(tensor.name, self._values[tensor.name])

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        try:
            return dict(zip(self._outputs, self._session.run(None, dict(feeds)), strict=True))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {_first_line(error)}") from error

    def weight(self, tensor: str) -> NDArray:
        """The stored tensor itself; changes act on the next run. Raises EngineError without mutable weights."""
        if tensor not in self._weights:
            raise EngineError(f"weight {tensor!r} cannot be struck here: the engine was built without mutable weights")
        return self._weights[tensor]

    def close(self) -> None:
        self._session = None
        self._values.clear()
        self._weights.clear()


def _options(request: EngineRequest) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if request.mutable_weights:
        # ENABLE_ALL would relayout a convolution's weights into a copy that no longer follows ours
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _info(request: EngineRequest) -> EngineInfo:
    options = {
        "threads": request.threads,
        "mutable_weights": request.mutable_weights,
        "prepacking": not request.mutable_weights,
        "graph_optimization": "extended" if request.mutable_weights else "all",
        "deterministic_compute": True,
        "machine": platform.machine(),
    }
    versions = {"onnxruntime": ort.__version__}
    return EngineInfo("ort-cpu", request.precision, request.file_sha256, request.deployment_id, options, versions)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
