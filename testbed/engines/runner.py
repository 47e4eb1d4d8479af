"""One contract for every engine: metadata, run, close. Nothing outside this package knows a backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from testbed.core.closing import Closing
from testbed.core.errors import EngineError
from testbed.core.fault import Masks
from testbed.core.folder.files import sha256_bytes, sha256_json
from testbed.core.process.resources import require_threads
from testbed.engines.backends import check_engine, registered_engine, require_engine
from testbed.semantics import as_words, corrupt

Arrays = Mapping[str, NDArray]


@dataclass(frozen=True)
class EngineInfo:
    """What runs. ``deployment_id`` names the plain ONNX file that the engine (or its twin) was made from."""

    backend: str
    precision: str
    file_sha256: str
    deployment_id: str
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """Changes with anything that could change an output bit."""
        return sha256_json(asdict(self))[:16]


@dataclass(frozen=True)
class EngineRequest:
    """What to build. ``precision`` is that of the file, which decides it; it is recorded, never converted to.

    ``mutable_weights`` asks for weights that can be struck while the engine lives. ``max_batch``: the largest batch, and
    ``max_points`` the most struck elements per row of a twin, for engines that lay out their memory when they are built.
    ``weights``: those that ``onnx`` only names, of a model of 2 GiB and more (and others, which are not looked at); the
    content hash of such a file speaks for them, as it holds theirs.
    """

    onnx: bytes
    file_sha256: str
    deployment_id: str
    precision: str = "fp32"
    threads: int = 1
    mutable_weights: bool = False
    max_batch: int = 64
    max_points: int = 1
    weights: Mapping[str, NDArray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_bytes(cls, onnx: bytes, deployment_id: str, **options: Any) -> Self:
        """A request for an ONNX file in memory, its hash computed. options: the other fields."""
        return cls(onnx, sha256_bytes(onnx), deployment_id, **options)


class Runner(AbstractContextManager["Runner"], Protocol):
    """An engine that is ready to run. Use as a context manager."""

    info: EngineInfo

    def run(self, feeds: Arrays) -> dict[str, NDArray]:
        """Output name -> array. Raises EngineError when the engine refuses or fails."""
        ...

    def close(self) -> None:
        """Let go of the engine and its memory; it does not run again."""
        ...


@runtime_checkable
class WeightInjector(Protocol):
    """A runner whose stored weights can be changed while it lives, by stored flat index."""

    def weight(self, tensor: str) -> NDArray:
        """The stored tensor, to be changed in place. Raises EngineError for a tensor that cannot be struck."""
        ...

    def weight_changed(self, tensor: str) -> None:
        """Tells the engine of a change, after each one: an engine on another device copies the tensor there now."""
        ...


@dataclass(frozen=True, eq=False)
class WeightFault:
    """Words of one stored tensor, and what is done to each. index: (n,) flat, as stored, no element twice; masks: (n,)."""

    tensor: str
    index: NDArray[np.int64]
    and_mask: NDArray[np.uint32]
    or_mask: NDArray[np.uint32]
    xor_mask: NDArray[np.uint32]


@contextmanager
def faulty_weights(runner: WeightInjector, faults: Iterable[WeightFault]) -> Iterator[list[tuple[NDArray, NDArray]]]:
    """Corrupts stored weights for the length of the block; yields (before, after) of each place, and restores them all
    bit for bit.

    Raises EngineError if a restored word is not the one that was there before.
    """
    several = list(faults)
    if len(several) == 1:  # nearly always
        with _faulty(runner, several[0]) as words:
            yield [words]
        return
    with ExitStack() as stack:
        yield [stack.enter_context(_faulty(runner, fault)) for fault in several]


@contextmanager
def _faulty(runner: WeightInjector, fault: WeightFault) -> Iterator[tuple[NDArray, NDArray]]:
    flat = runner.weight(fault.tensor).reshape(-1)
    stored, before = as_words(flat), flat[fault.index]
    words = as_words(before)
    after = corrupt(before, fault.and_mask, fault.or_mask, fault.xor_mask)
    stored[fault.index] = as_words(after)
    try:
        runner.weight_changed(fault.tensor)
        yield before, after
    finally:
        stored[fault.index] = words
        runner.weight_changed(fault.tensor)
        wrong = (stored[fault.index] != words).nonzero()[0]
        if len(wrong):
            element = fault.index[wrong[0]]
            raise EngineError(f"weight {fault.tensor}[{element}] could not be restored; the engine must be rebuilt")


@runtime_checkable
class PhasedRunner(Protocol):
    """A runner on another device, which can tell the copies from the computation."""

    def phases(self, feeds: Arrays) -> dict[str, float]:
        """One run: ``h2d_ms`` (host to device), ``compute_ms``, ``d2h_ms``, each until the device is done with it."""
        ...


@contextmanager
def faulty_weight(
    runner: WeightInjector, tensor: str, stored_index: int, masks: Masks
) -> Iterator[tuple[NDArray, NDArray]]:
    """`faulty_weights` of one word; yields its (before, after), (1,) each."""
    fault = WeightFault(tensor, np.array([stored_index]), *(np.array([mask], np.uint32) for mask in masks))
    with faulty_weights(runner, [fault]) as (word,):
        yield word


_Handle = TypeVar("_Handle")


class BaseRunner(Closing):
    """What most runners share: when a call is refused, and how an engine is closed."""

    library = "engine"
    """Name of the engine's library, as messages say it."""
    takes_weights = False
    """Whether the engine can be given ``EngineRequest.weights``."""
    info: EngineInfo

    def _opened(self, handle: _Handle | None) -> _Handle:
        """The library's handle, which closing takes away. Raises EngineError for an engine that was closed."""
        if handle is None or handle is False:
            raise EngineError(f"this {self.library} engine is closed")
        return handle

    @staticmethod
    def _mutable_weight(weights: Mapping[str, NDArray], tensor: str) -> NDArray:
        """One of the weights that the engine can change. Raises EngineError for any other tensor."""
        if tensor not in weights:
            raise EngineError(f"weight {tensor!r} cannot be struck here: the engine was built without mutable weights")
        return weights[tensor]

    def close(self) -> None:
        """Frees what the engine holds. May be called twice."""

    def weight_changed(self, tensor: str) -> None:
        """Nothing to do where the engine reads the very array that was changed."""


def open_engine(backend: str, request: EngineRequest) -> Runner:
    """Builds an engine. Raises UsageError for an unknown backend or far too many threads, EngineError when it cannot be
    built."""
    check_engine(backend, request.precision)
    require_threads(request.threads)
    require_engine(backend)
    make = registered_engine(backend).runner
    if request.weights and not getattr(make, "takes_weights", False):
        raise EngineError(
            f"{backend} is not given models of 2 GiB and more here; take another engine (ort-cpu, ort-cuda, torch), or a"
            " model in fp16"
        )
    runner: Runner = make(request)
    return runner
