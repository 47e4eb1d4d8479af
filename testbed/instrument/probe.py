"""The engine that a file is tried on while it is read: one whose loop never ends, or crashes, is refused by name.

A graph without control flow ends by itself, so that it is run here, at once. One with a Loop or the like may run for
ever, and nothing can stop it in this process: it is run in one of its own, with a time-out, as a campaign's workers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto

from testbed.core.errors import EngineError, TestbedError
from testbed.core.process.child import OUT_OF_MEMORY
from testbed.core.process.isolate import Isolated, WorkerFailed
from testbed.engines.runner import Arrays, EngineRequest, Runner, open_engine
from testbed.instrument.lean.apart import Apart
from testbed.instrument.lean.stored import LARGEST, loaded, size_of
from testbed.instrument.skeleton import empty_weights, has_bfloat16, in_float32, skeleton

_OPEN_S = 120.0  # libraries are imported, the graph is optimised
RUN_S = 20.0  # a few images, for which a large ViT needs one


class Probe(AbstractContextManager["Probe"], Protocol):
    """What is asked of an engine here: a part of `testbed.engines.runner.Runner`."""

    def run(self, feeds: Arrays) -> dict[str, NDArray]: ...


ProbeOpener = Callable[[bytes, str], Runner]
"""(model, purpose) -> an engine."""


class Endless(TestbedError):
    """The file was stopped in the middle of a run, or ended its process."""


class TooMuchMemory(TestbedError):
    """A run needs more memory than there is: no verdict on the file."""


def open_probe(proto: ModelProto, purpose: str) -> Probe:
    """ONNX Runtime on this file. Its use raises EngineError, TooMuchMemory, or Endless for a run that does not end.

    purpose: a name for what the file is here. Raises TooLarge for 2 GiB and more where the file has loops or branches, or
    computes in bfloat16.
    """
    if size_of(proto) < LARGEST or next(control_flow(proto), "") or has_bfloat16(proto):
        return _opened(loaded(proto), purpose, open_here)
    apart = Apart.of(proto, "weights", hashed=False)
    request = EngineRequest.of_bytes(apart.serialised(), purpose, weights=apart.mapped())
    return _Weighed(open_engine("ort-cpu", request))


def _opened(proto: ModelProto, purpose: str, opener: ProbeOpener) -> Probe:
    loop, model = next(control_flow(proto), ""), in_float32(proto).SerializeToString()
    del proto  # the engine takes as much again
    if loop:
        return _Weighed(_Isolated(model, purpose, loop, opener))
    return _Weighed(opener(model, purpose))


class _Weighed:
    """An engine whose lack of memory is told from what is wrong with a file."""

    def __init__(self, engine: Probe) -> None:
        self._engine = engine

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        try:
            return self._engine.run(feeds)
        except EngineError as error:
            if OUT_OF_MEMORY.search(str(error)) is None:
                raise
            images = len(next(iter(feeds.values())))
            of = "1 image" if images == 1 else f"{images} images"
            raise TooMuchMemory(
                f"a trial run of the model on {of} needs more memory than there is ({error}); free some, or export it for"
                " smaller images or in fp16"
            ) from error

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._engine.__exit__(*error)


def open_weightless(proto: ModelProto, purpose: str) -> Probe:
    """The same with zeros for the file's large weights, to find out shapes: these take no memory.

    Where ONNX Runtime asks for the weights themselves, it is given them.
    """
    try:
        return open_skeleton(skeleton(proto), empty_weights(proto), purpose)
    except EngineError:
        return open_probe(proto, purpose)


def open_skeleton(bare: ModelProto, weights: Arrays, purpose: str) -> Probe:
    """The same of a skeleton, which is fed these zeros."""
    return _Weightless(_opened(bare, purpose, open_sketch), weights)


class _Weightless:
    """An engine that is fed zeros for its weights."""

    def __init__(self, engine: Probe, weights: Arrays) -> None:
        self._engine, self._weights = engine, weights

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        return self._engine.run({**feeds, **self._weights})

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._engine.__exit__(*error)


def control_flow(proto: ModelProto) -> Iterator[str]:
    """Nodes, at any depth, that run a graph of their own: operator and name."""
    yield from _in_nodes(proto.graph.node)
    for function in proto.functions:
        yield from _in_nodes(function.node)


def _in_nodes(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        graphs = [graph for attribute in node.attribute for graph in _graphs(attribute)]
        if graphs:
            yield node_in_words(node)
        for graph in graphs:
            yield from _in_nodes(graph.node)


def node_in_words(node: NodeProto) -> str:
    """Operator and name, for people."""
    return f"{node.op_type} {(node.name or ', '.join(node.output))!r}"


def _graphs(attribute: AttributeProto) -> Iterable[Any]:
    return [attribute.g] if attribute.HasField("g") else attribute.graphs


def open_here(model: bytes, purpose: str) -> Runner:
    return open_engine("ort-cpu", EngineRequest.of_bytes(model, purpose))


def open_sketch(model: bytes, purpose: str) -> Runner:
    from testbed.engines.onnxruntime.cpu import OrtSketchRunner

    return OrtSketchRunner(EngineRequest.of_bytes(model, purpose))


@dataclass(frozen=True)
class _RunFile:
    feeds: Arrays
    name: ClassVar[str] = "run"

    def __call__(self, runner: Runner) -> dict[str, NDArray]:
        return dict(runner.run(self.feeds))


class _Isolated:
    """The engine in a process of its own."""

    def __init__(self, model: bytes, purpose: str, loop: str, opener: ProbeOpener) -> None:
        self._loop = loop
        self._process = Isolated(opener, (model, purpose))
        try:
            self._process.open(_OPEN_S)
        except WorkerFailed as failure:
            self.__exit__()
            raise self._refused(failure) from failure
        except BaseException:
            self.__exit__()
            raise

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        try:
            return self._process.call(_RunFile(feeds), RUN_S)
        except WorkerFailed as failure:
            raise self._refused(failure) from failure

    def _refused(self, failure: WorkerFailed) -> Endless:
        return Endless(f"its {self._loop} does not end well ({failure}); export the model without loops and branches")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.close()
