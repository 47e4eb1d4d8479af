"""A stand-in for TensorRT: the same calls, computed by the torch engine on host memory."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from testbed.engines.runner import EngineRequest
from testbed.engines.signature import loaded
from testbed.engines.torch.runner import TorchRunner


def run(model: bytes, feeds: dict[str, NDArray]) -> dict[str, NDArray]:
    with TorchRunner(EngineRequest(model, "sha", "id")) as runner:
        return runner.run(feeds)


class Refits(dict[str, NDArray]):
    """Weights given to an engine since it was built."""


class FakeEngine:
    def __init__(self, model: bytes, library: FakeTensorRt) -> None:
        self.model, self.library, self.refits = model, library, Refits()
        proto = loaded(model)
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.output}

    def create_execution_context(self) -> FakeEngine:
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        return self

    def get_tensor_dtype(self, name: str) -> type:
        return np.float32

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.inputs[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> list[int]:
        return [next(iter(self.inputs.values()))[0], *self.shapes[name][1:]]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        proto = loaded(self.model)
        for tensor in proto.graph.initializer:
            if tensor.name in self.refits:
                tensor.CopyFrom(numpy_helper.from_array(self.refits[tensor.name], tensor.name))
        feeds = {n: _at(self.addresses[n], shape).copy() for n, shape in self.inputs.items()}
        for name, array in run(proto.SerializeToString(), feeds).items():
            _at(self.addresses[name], array.shape)[:] = array
        return self.library.runs


class FakeTensorRt:
    """As much of the library as the runner calls."""

    __version__ = "99.0"
    runs = True  # whether executions succeed
    fused: ClassVar[set[str]] = set()  # weights that cannot be refitted
    lost: ClassVar[set[str]] = set()  # weights that a refittable build drops
    missing: ClassVar[list[str]] = []
    DataType = SimpleNamespace(BF16="bf16")
    BuilderFlag = SimpleNamespace(STRICT_NANS=1)

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    @staticmethod
    def nptype(kind: type) -> type:
        return kind

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: FakeEngine(plan, self))

    @staticmethod
    def Weights(kind: type, address: int, size: int) -> NDArray:
        return _at(address, (size,)).copy()

    def Refitter(self, engine: FakeEngine, logger: Any) -> Any:
        stored = {t.name: numpy_helper.to_array(t) for t in loaded(engine.model).graph.initializer}

        def set_named_weights(name: str, values: NDArray) -> bool:
            engine.refits[name] = values.reshape(stored[name].shape)
            return True

        return SimpleNamespace(
            get_all_weights=lambda: [name for name in stored if name not in self.fused],
            get_weights_prototype=lambda name: SimpleNamespace(dtype=np.float32),
            get_missing_weights=lambda: self.missing,
            set_named_weights=set_named_weights,
            refit_cuda_engine=lambda: True,
        )


def _at(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(address)).reshape(shape)
