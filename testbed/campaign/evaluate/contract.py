"""How the output of a fault is found: by running everything, or only what the fault can change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.core.arrays import Int64s, Words32
from testbed.core.errors import TestbedError
from testbed.core.outcome import How
from testbed.core.site import SiteTable
from testbed.engines.runner import Runner, WeightFault
from testbed.instrument.ports.feed import NO_SITE, PortFeed
from testbed.semantics import as_words


class NotDeterministic(TestbedError):
    """Not an engine failure of one fault: no row of this engine can be trusted."""


@dataclass(frozen=True)
class Injections:
    """Activation faults to be evaluated, one inference each. image: (n,) rows of the named images; ports: (n, K)."""

    image: NDArray[np.int64]
    ports: PortFeed

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: NDArray[np.int64]) -> Injections:
        return Injections(self.image[rows], self.ports.take(rows))


@dataclass(frozen=True)
class Evaluated:
    """Some of the strikes' outputs. rows: (m,) which strikes; outputs: (m, ...); how: (m,) of `How`; bound: (m,) largest
    deviation of any element from exact evaluation, 0 where exact."""

    rows: NDArray[np.int64]
    outputs: NDArray[np.float32]
    how: NDArray[np.int8]
    bound: NDArray[np.float32]

    @classmethod
    def exact(cls, rows: NDArray[np.int64], outputs: NDArray[np.float32], how: How) -> Evaluated:
        n = len(rows)
        return cls(rows, outputs, np.full(n, how, np.int8), np.zeros(n, np.float32))


def gathered(chunks: Iterable[Evaluated], least_bytes: int) -> Iterator[Evaluated]:
    """The same strikes in pieces whose outputs hold about ``least_bytes`` or more, but for the last one."""
    waiting: list[Evaluated] = []
    held = 0
    for chunk in chunks:
        waiting.append(chunk)
        held += chunk.outputs.nbytes
        if held >= least_bytes:
            yield _together(waiting)
            waiting, held = [], 0
    if waiting:
        yield _together(waiting)


def _together(chunks: list[Evaluated]) -> Evaluated:
    if len(chunks) == 1:
        return chunks[0]
    columns = (np.concatenate([getattr(chunk, f.name) for chunk in chunks]) for f in fields(Evaluated))
    return Evaluated(*columns)


class Evaluator(Protocol):
    """Finds the outputs of strikes, in pieces of at most a batch or so, each strike once, in any order.

    ``golden``: (images, ...) fault-free outputs, the very bits that an idle row of the whole twin has. Raises EngineError
    when the engine fails, NotDeterministic when a struck element did not hold its golden word.
    """

    @property
    def golden(self) -> NDArray[np.float32]: ...

    def evaluate(self, injections: Injections) -> Iterator[Evaluated]: ...


class OpenPart(Protocol):
    """Opens an engine of the campaign's kind for a part of the graph. batch: largest one; the campaign's own unless given.
    mutable_weights: whether its weights are to be struck."""

    def __call__(self, model: bytes, *, batch: int | None = None, mutable_weights: bool = False) -> Runner: ...


WordChanges = list[tuple[NDArray, NDArray]]
"""(before, after) of each struck tensor's elements."""


class FaultyRun(NamedTuple):
    """What an engine gives while weights are faulty. outputs: of the images asked for (n, ...)."""

    outputs: NDArray[np.float32]
    words: WordChanges
    how: How


class RunWhole(Protocol):
    """Runs images by the whole engine while some weights are faulty. No fault gives the golden outputs.

    images: (n,) rows of the named ones, in the order of the outputs; all of them unless said.
    """

    def __call__(self, faults: Sequence[WeightFault], images: Int64s | None = None, /) -> FaultyRun: ...


def check_live(ports: PortFeed, live: Words32, table: SiteTable) -> None:
    """Raises NotDeterministic where an element did not hold its golden word when it was struck.

    Of a strike at several sites only the first is looked at: what is struck there may change what the others hold.
    """
    faulty = ports.site != NO_SITE
    first = np.where(faulty, ports.site, np.iinfo(np.int64).max).min(axis=1, keepdims=True)
    wrong = np.argwhere(faulty & (ports.site == first) & (live != ports.golden))
    if len(wrong):
        row, point = wrong[0]
        name = list(table.ports)[ports.site[row, point]]
        raise NotDeterministic(
            f"{name}[{ports.index[row, point]}] was {live[row, point]:#x} in the engine and"
            f" {ports.golden[row, point]:#x} in its golden run: this engine is not deterministic at these settings"
        )


def same_words(left: NDArray, right: NDArray) -> NDArray[np.bool_]:
    """(m,) whether all bits are equal."""
    words = (as_words(left).reshape(len(left), -1), as_words(right).reshape(len(right), -1))
    equal: NDArray[np.bool_] = (words[0] == words[1]).all(axis=1)
    return equal
