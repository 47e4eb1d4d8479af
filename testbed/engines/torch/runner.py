"""PyTorch as an engine: the nodes of an ONNX graph, one after another, as eager torch operations.

It runs the same files as every other engine, twins with fault ports included. Nothing is fused, folded or repacked, so
weights can be struck in place. A row's bits are the same in every batch of two and more; a row alone takes other kernels,
whose last bits may differ. The interpreter is our own: onnx2torch, the maintained converter, knows no operator set
after 18, no Gelu, no ScatterElements and no quantisation.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper
from torch import Tensor

from testbed.core.errors import EngineError
from testbed.engines.runner import Arrays, BaseRunner, EngineInfo, EngineRequest
from testbed.engines.signature import loaded, signature_of
from testbed.engines.torch.host import host_values
from testbed.engines.torch.operators import MANY_OUTPUTS, OPERATORS
from testbed.engines.torch.words import from_numpy, to_numpy
from testbed.engines.weights import named_weights, numbers_of, strikable_weights


class _NodeStep(NamedTuple):
    """One node. ``devices``: where each output belongs. ``last_uses``: values that nothing reads after it."""

    node: str
    operator: Callable[..., Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    devices: Sequence[str]
    attributes: Mapping[str, Any]
    last_uses: Sequence[str]


class TorchRunner(BaseRunner):
    """Raises EngineError for a file that is not ONNX or holds an operator that ``OPERATORS`` lacks."""

    library = "torch"
    takes_weights = True
    backend = "torch"
    device = "cpu"

    def __init__(self, request: EngineRequest) -> None:
        proto = loaded(request.onnx)
        self._signature = signature_of(proto)
        self._threads = request.threads
        beside = named_weights(proto, request.weights)
        self._stored = strikable_weights(proto, beside) if request.mutable_weights else {}
        constants = {t.name: np.array(numbers_of(t, beside)) for t in proto.graph.initializer} | self._stored
        on_host = host_values(proto)
        with self._settings():
            self._constants = {
                name: value.to("cpu" if name in on_host else self.device)
                for name, value in (*((n, from_numpy(array)) for n, array in constants.items()), *_literals(proto))
            }
            self._steps = _steps(proto, on_host, self.device)
            self._open = True
            self.info = self._info(request)

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        self._opened(self._open)
        arrays = self._signature.checked(feeds)
        with self._settings(), torch.inference_mode():
            outputs = self.compute(self.upload(arrays))
            return {name: np.array(to_numpy(value.cpu())) for name, value in outputs.items()}

    def upload(self, arrays: Arrays) -> dict[str, Tensor]:
        """Copy the arrays to the engine's device."""
        return {name: from_numpy(np.array(array)).to(self.device) for name, array in arrays.items()}

    def compute(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs, which stay on the device."""
        values = {**self._constants, **given}
        for step in self._steps:
            _take(step, values)
        return {name: values[name] for name in self._signature.outputs}

    def weight(self, tensor: str) -> NDArray:
        """The stored tensor; changes act on the next run, on a GPU after ``weight_changed``. Raises EngineError without
        mutable weights."""
        return self._mutable_weight(self._stored, tensor)

    def weight_changed(self, tensor: str) -> None:
        self._constants[tensor].copy_(from_numpy(self._stored[tensor]))  # onto itself, on the CPU

    def close(self) -> None:
        self._constants.clear()
        self._stored.clear()
        self._steps.clear()
        self._open = False

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Threads and arithmetic are the process's: they are set back."""
        before = torch.get_num_threads()
        if before != self._threads:
            torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            if before != self._threads:
                torch.set_num_threads(before)

    def _info(self, request: EngineRequest) -> EngineInfo:
        options = {
            "device": self.device,
            "threads": request.threads,
            "mutable_weights": request.mutable_weights,
            "machine": platform.machine(),
            **self._device_options(),
        }
        versions = {"torch": torch.__version__, **self._device_versions()}
        hashes = (request.file_sha256, request.deployment_id)
        return EngineInfo(self.backend, request.precision, *hashes, options, versions)

    def _device_options(self) -> dict[str, str | bool]:
        return {"cpu_capability": torch.backends.cpu.get_cpu_capability()}

    def _device_versions(self) -> dict[str, str]:
        return {}


class TorchCudaRunner(TorchRunner):
    """The same on the first GPU: TF32 off, deterministic kernels."""

    backend = "torch-cuda"
    device = "cuda"

    @contextmanager
    def _settings(self) -> Iterator[None]:
        matmul, flags = torch.get_float32_matmul_precision(), torch.backends.cudnn.flags
        deterministic = torch.are_deterministic_algorithms_enabled()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS may pick another algorithm per stream
        with super()._settings(), flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            torch.set_float32_matmul_precision("highest")
            torch.use_deterministic_algorithms(True)
            try:
                yield
            except torch.cuda.OutOfMemoryError as error:
                raise EngineError("torch ran out of GPU memory; choose a smaller batch") from error
            finally:
                torch.set_float32_matmul_precision(matmul)
                torch.use_deterministic_algorithms(deterministic)

    def phases(self, feeds: Arrays) -> dict[str, float]:
        """See `PhasedRunner`: by CUDA events on the stream."""
        arrays = self._signature.checked(feeds)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        with self._settings(), torch.inference_mode():
            marks[0].record()
            given = self.upload(arrays)
            marks[1].record()
            outputs = self.compute(given)
            marks[2].record()
            for value in outputs.values():
                value.cpu()
            marks[3].record()
            torch.cuda.synchronize()
        names = ("h2d_ms", "compute_ms", "d2h_ms")
        return {name: a.elapsed_time(b) for name, a, b in zip(names, marks, marks[1:], strict=False)}

    def _device_options(self) -> dict[str, str | bool]:
        return {"gpu": torch.cuda.get_device_name(), "tf32": False, "deterministic_algorithms": True}

    def _device_versions(self) -> dict[str, str]:
        return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}


def _literals(proto: ModelProto) -> Iterator[tuple[str, Tensor]]:
    """What Constant nodes hold, which is read once."""
    for node in filter(_is_literal, proto.graph.node):
        yield node.output[0], OPERATORS["Constant"](**_attributes(node))


def _is_literal(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _steps(proto: ModelProto, on_host: Collection[str], device: str) -> list[_NodeStep]:
    nodes, kept = [node for node in proto.graph.node if not _is_literal(node)], {o.name for o in proto.graph.output}
    last_use = {name: number for number, node in enumerate(nodes) for name in (*node.output, *node.input) if name}
    unused: list[list[str]] = [[] for _ in nodes]
    for name, number in last_use.items():
        if name not in kept:
            unused[number].append(name)
    placed = [["cpu" if name in on_host else device for name in node.output] for node in nodes]
    return [_step(*of_node) for of_node in zip(nodes, placed, unused, strict=True)]


def _step(node: NodeProto, devices: Sequence[str], last_uses: Sequence[str]) -> _NodeStep:
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    if operator not in OPERATORS:
        raise EngineError(f"torch has no ONNX operator {node.domain or 'ai.onnx'}.{node.op_type} here; use ort-cpu")
    if len(node.output) > 1 and operator not in MANY_OUTPUTS:
        raise EngineError(f"torch gives one output for {operator}, node {node.name!r} has more; use ort-cpu")
    name = node.name or node.op_type
    return _NodeStep(
        name, OPERATORS[operator], list(node.input), list(node.output), devices, _attributes(node), last_uses
    )


def _take(step: _NodeStep, values: dict[str, Tensor]) -> None:
    """Computes one node's outputs into ``values`` and drops what is no longer needed."""
    try:
        returned = step.operator(*(values[name] if name else None for name in step.inputs), **step.attributes)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise EngineError(f"torch failed at node {step.node!r}: {str(error).splitlines()[0][:300]}") from error
    outputs = returned if isinstance(returned, tuple) else (returned,)
    placed = zip(step.outputs, outputs, step.devices, strict=False)
    values.update((name, value.to(device)) for name, value, device in placed)
    for name in step.last_uses:
        del values[name]
