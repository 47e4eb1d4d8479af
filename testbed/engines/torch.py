"""PyTorch as an engine: the nodes of an ONNX graph, one after another, as eager torch operations in float32 on the CPU.

It runs the same files as every other engine, twins with fault ports included. Nothing is fused, folded or repacked, so
weights can be struck in place.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from testbed.core.errors import EngineError
from testbed.engines.runner import Arrays, BaseRunner, EngineInfo, EngineRequest
from testbed.engines.torch_operators import OPERATORS


class _Step(NamedTuple):
    """One node. ``last_uses``: values that nothing reads after it."""

    node: str
    operator: Callable[..., Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]
    last_uses: Sequence[str]


class TorchRunner(BaseRunner):
    """Raises EngineError for a file that is not ONNX or holds an operator that ``OPERATORS`` lacks."""

    def __init__(self, request: EngineRequest) -> None:
        try:
            proto = onnx.load_from_string(request.onnx)
        except Exception as error:  # protobuf's error types come without stubs
            raise EngineError(f"torch cannot run this file: it is not ONNX ({error})") from error
        self._threads, self._mutable = request.threads, request.mutable_weights
        self._weights = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in proto.graph.initializer}
        self._floats = {t.name for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT}
        self._inputs = [i.name for i in proto.graph.input if i.name not in self._weights]
        self._outputs = [o.name for o in proto.graph.output]
        self._steps = _steps(proto)
        self.info = _info(request)

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        if set(feeds) != set(self._inputs):
            raise EngineError(
                f"torch is fed {', '.join(feeds) or 'nothing'}; the model takes {', '.join(self._inputs)}"
            )
        with _threads(self._threads), torch.inference_mode():
            values = self._weights | {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}
            for step in self._steps:
                _take(step, values)
            return {name: np.array(values[name].numpy()) for name in self._outputs}

    def weight(self, tensor: str) -> NDArray:
        """The stored tensor itself; changes act on the next run. Raises EngineError without mutable weights."""
        if not self._mutable or tensor not in self._floats:
            raise EngineError(f"weight {tensor!r} cannot be struck here: the engine was built without mutable weights")
        return self._weights[tensor].numpy()

    def close(self) -> None:
        self._weights.clear()
        self._steps.clear()


def _steps(proto: ModelProto) -> list[_Step]:
    nodes, kept = proto.graph.node, {o.name for o in proto.graph.output}
    last_use = {name: number for number, node in enumerate(nodes) for name in (*node.output, *node.input) if name}
    unused: list[list[str]] = [[] for _ in nodes]
    for name, number in last_use.items():
        if name not in kept:
            unused[number].append(name)
    return [_step(node, names) for node, names in zip(nodes, unused, strict=True)]


def _step(node: NodeProto, last_uses: Sequence[str]) -> _Step:
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        raise EngineError(f"torch has no ONNX operator {node.domain or 'ai.onnx'}.{node.op_type} here; use ort-cpu")
    if len(node.output) > 1 and node.op_type != "Split":
        raise EngineError(f"torch gives one output for {node.op_type}, node {node.name!r} has more; use ort-cpu")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    name = node.name or node.op_type
    return _Step(name, OPERATORS[node.op_type], list(node.input), list(node.output), attributes, last_uses)


def _take(step: _Step, values: dict[str, Tensor]) -> None:
    """Computes one node's outputs into ``values`` and drops what is no longer needed."""
    try:
        found = step.operator(*(values[name] if name else None for name in step.inputs), **step.attributes)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise EngineError(f"torch failed at node {step.node!r}: {str(error).splitlines()[0][:300]}") from error
    values.update(zip(step.outputs, found if isinstance(found, tuple) else (found,), strict=False))
    for name in step.last_uses:
        del values[name]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The number of threads is the process's: it is set back."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def _info(request: EngineRequest) -> EngineInfo:
    options = {
        "threads": request.threads,
        "mutable_weights": request.mutable_weights,
        "machine": platform.machine(),
    }
    versions = {"torch": torch.__version__}
    return EngineInfo("torch", request.precision, request.file_sha256, request.deployment_id, options, versions)
