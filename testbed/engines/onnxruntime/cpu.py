"""ONNX Runtime on the CPU provider.

Two settings of the same engine: as deployed, and with weights that can be struck in place. For the latter ONNX Runtime
must neither prepack nor fold nor own the weights, or a change would be silently ignored; callers prove per tensor that
it is not (the canary), and such a session has its own hash and its own golden.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from testbed.core.errors import EngineError
from testbed.core.process.resources import release_memory
from testbed.core.process.telemetry import silence
from testbed.engines import native
from testbed.engines.runner import Arrays, BaseRunner, EngineInfo, EngineRequest
from testbed.engines.signature import loaded, signature_of
from testbed.engines.weights import named_weights, strikable_weights

silence(ort)
PROVIDER = "CPUExecutionProvider"
_BF16 = np.dtype(ml_dtypes.bfloat16)
_CUSTOM_DOMAIN = "testbed"  # of testbed::FaultPort
_CAST_LIKE = 15  # the first opset that has it
_NAMES_OF_ELEMENTS = {
    "float": "FLOAT",
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "double": "DOUBLE",
    "bool": "BOOL",
}
_NAMES_OF_ELEMENTS |= {
    f"{kind}{bits}": f"{kind}{bits}".upper() for kind in ("int", "uint") for bits in (4, 8, 16, 32, 64)
}
_ELEMENTS = {f"tensor({theirs})": TensorProto.DataType.Value(name) for theirs, name in _NAMES_OF_ELEMENTS.items()}


_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = "/onnxruntime_src/"  # where ONNX Runtime was built


class OrtCpuRunner(BaseRunner):
    """Raises EngineError when ONNX Runtime refuses the model or falls back to another provider."""

    library = "ONNX Runtime"
    takes_weights = True

    def __init__(self, request: EngineRequest) -> None:
        proto = loaded(request.onnx)
        self._signature = signature_of(proto)
        options = self._options(request)
        beside = given_weights(proto, request, options)
        self._weights = strikable_weights(proto, request.weights) if request.mutable_weights else {}
        self._values = {name: ort_value(array) for name, array in self._weights.items()}
        for name, value in self._values.items():
            options.add_initializer(name, value)
        model = request.onnx if request.precision != "fp16" else _softmax_in_fp32(proto)
        register_fault_ports(proto, options)
        del proto  # ONNX Runtime takes as much again
        self._session: Any = session(model, options, [PROVIDER])
        del beside  # the session has what it needs
        self.info = _info(request)
        self._size = len(request.onnx) + sum(weight.nbytes for weight in request.weights.values())
        release_memory(self._size)

    @staticmethod
    def _options(request: EngineRequest) -> Any:
        return _options(request)

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        self._opened(self._session)
        arrays = self._signature.checked(feeds)
        try:
            return dict(zip(self._signature.outputs, self._session.run(None, arrays), strict=True))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {first_line(error)}") from error

    def weight(self, tensor: str) -> NDArray:
        """The stored tensor itself; changes act on the next run. Raises EngineError without mutable weights."""
        return self._mutable_weight(self._weights, tensor)

    def close(self) -> None:
        self._session = None
        self._values.clear()
        self._weights.clear()
        release_memory(self._size)


class OrtSketchRunner(OrtCpuRunner):
    """The same to find out shapes with: the graph as it is written, and no more memory than its tensors need in turn."""

    @staticmethod
    def _options(request: EngineRequest) -> Any:
        options = session_options(request)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # a Shape before what is not needed for it
        options.add_session_config_entry("session.disable_prepacking", "1")
        return options


def _softmax_in_fp32(proto: ModelProto) -> bytes:
    """The file with every Softmax between casts to fp32 and back.

    The provider has no Softmax in fp16. By itself it would take the operator apart and add up each row in an order that
    depends on where in memory the row lies: an image's outputs would depend on its place in the batch.
    """
    changed = ModelProto()
    changed.CopyFrom(proto)
    if next((o.version for o in proto.opset_import if not o.domain), 0) < _CAST_LIKE:
        return changed.SerializeToString()
    nodes = []
    for node in changed.graph.node:
        if node.op_type != "Softmax" or node.domain:
            nodes.append(node)
            continue
        (wide, narrow), output = (f"{node.output[0]}/wide", f"{node.output[0]}/narrow"), node.output[0]
        nodes.append(helper.make_node("Cast", [node.input[0]], [wide], to=TensorProto.FLOAT))
        nodes.append(node)
        nodes.append(helper.make_node("CastLike", [narrow, node.input[0]], [output]))
        node.input[0], node.output[0] = wide, narrow
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed.SerializeToString()


def given_weights(proto: ModelProto, request: EngineRequest, options: Any) -> list[Any]:
    """Gives a session the weights that the model only names; the values must outlive its opening. Raises EngineError for one
    that the request has not."""
    beside = named_weights(proto, request.weights)
    values = [ort_value(array) for array in beside.values()]
    if beside:
        options.add_external_initializers(list(beside), values)
    return values


def register_fault_ports(proto: ModelProto, options: Any) -> None:
    """Makes our custom operator known to a session, where the model has it. Raises EngineError where it was not built."""
    if any(node.domain == _CUSTOM_DOMAIN for node in proto.graph.node):
        library = native.op_library()
        if library is None:
            raise EngineError("testbed::FaultPort was not built: install testbed again with a C++ compiler on PATH")
        options.register_custom_ops_library(str(library))


def session(model: bytes, options: Any, providers: list[Any]) -> Any:
    """An InferenceSession on the first of ``providers``.

    Raises EngineError when ONNX Runtime refuses the model or takes another provider, which it does without a word.
    """
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    try:
        made = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its error types are private
        raise EngineError(f"ONNX Runtime cannot build this model: {first_line(error)}") from error
    if made.get_providers()[0] != wanted:
        taken = made.get_providers()[0]
        raise EngineError(
            f"ONNX Runtime fell back to {taken} although {wanted} was asked for: are the libraries it needs installed?"
        )
    return made


def element_types(proto: ModelProto, tensors: Sequence[str]) -> dict[str, int]:
    """ONNX's element type of tensors of the main graph, as ONNX Runtime infers it; 0 for what is no tensor of numbers.

    Raises EngineError when it refuses the model.
    """
    probe = ModelProto()
    probe.CopyFrom(proto)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(ValueInfoProto(name=name) for name in tensors if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    register_fault_ports(probe, options)
    made = session(probe.SerializeToString(), options, ["CPUExecutionProvider"])
    inferred = {output.name: _ELEMENTS.get(output.type, 0) for output in made.get_outputs()}
    return {name: inferred.get(name, 0) for name in tensors}


def session_options(request: EngineRequest) -> Any:
    """What every provider is given."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # our own line says what is wrong
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # or, on x86, int8 becomes uint8 at build time: only where no port is in between, so that a twin is fused otherwise
    # than what is deployed, and with zero points that no longer follow ours
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def _options(request: EngineRequest) -> Any:
    options = session_options(request)
    if request.mutable_weights:
        # ENABLE_ALL would relayout a convolution's weights into a copy that no longer follows ours
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def ort_value(array: NDArray, device: str = "cpu") -> Any:
    """An OrtValue: over the array's own memory on the CPU, a copy elsewhere."""
    if array.dtype == _BF16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array, device)


def _info(request: EngineRequest) -> EngineInfo:
    options = {
        "threads": request.threads,
        "mutable_weights": request.mutable_weights,
        "prepacking": not request.mutable_weights,
        "graph_optimization": "extended" if request.mutable_weights else "all",
        "arithmetic": "emulated in fp32" if request.precision == "fp16" else request.precision,
        "deterministic_compute": True,
        "machine": platform.machine(),
    }
    if request.precision == "fp16":
        options["softmax"] = "fp32"  # as one operator: taken apart, its sums depend on a row's place
    if request.precision == "int8":
        options["int8_as"] = "int8"  # on x86 too, where ONNX Runtime's own choice is uint8
    versions = {"onnxruntime": ort.__version__}
    return EngineInfo("ort-cpu", request.precision, request.file_sha256, request.deployment_id, options, versions)


def first_line(error: Exception) -> str:
    """What went wrong, without the place in ONNX Runtime's own source that it went wrong at."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _without_place(_CODE.sub("", line))[:300]


def _without_place(line: str) -> str:
    """A message without "/onnxruntime_src/FILE:LINE FUNCTION(ARGUMENTS) "."""
    before, source, after = line.partition(_SOURCE)
    depth = 0
    for position, letter in enumerate(after if source else ""):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth:
            return before + after[position + 1 :].removeprefix(" const").lstrip()
    return line
