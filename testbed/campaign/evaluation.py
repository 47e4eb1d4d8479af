"""How the output of a fault is found: by running everything, or only what the fault can change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import TestbedError
from testbed.instrument.feed import PortFeed


class NotDeterministic(TestbedError):
    """Not an engine failure of one fault: no row of this engine can be trusted."""


class How(IntEnum):
    """``WHOLE``: the whole twin was run. ``SUFFIX``: from the fault's block on, from golden inputs. ``ROWS``: in the
    fault's own block, or in the last, only the tokens that it can reach. ``UNCHANGED``: run up to a place where every
    bit was golden again. ``DEAD``: not run, the site cannot reach the output. ``INCREMENTAL``: computed from the golden
    output and the change, to within a bound. All but the last are exact.
    """

    WHOLE = 0
    SUFFIX = 1
    ROWS = 2
    UNCHANGED = 3
    DEAD = 4
    INCREMENTAL = 5


HOWS: tuple[str, ...] = tuple(how.name.lower() for how in How)


@dataclass(frozen=True)
class Strikes:
    """Activation faults to be evaluated, one inference each. image: (n,) rows of the named images; ports: (n, K)."""

    image: NDArray[np.int64]
    ports: PortFeed

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: NDArray[np.int64]) -> Strikes:
        return Strikes(self.image[rows], self.ports.take(rows))


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


def gathered(pieces: Iterable[Evaluated], least_bytes: int) -> Iterator[Evaluated]:
    """The same strikes in pieces whose outputs hold about ``least_bytes`` or more, but for the last one."""
    waiting: list[Evaluated] = []
    held = 0
    for piece in pieces:
        waiting.append(piece)
        held += piece.outputs.nbytes
        if held >= least_bytes:
            yield _together(waiting)
            waiting, held = [], 0
    if waiting:
        yield _together(waiting)


def _together(pieces: list[Evaluated]) -> Evaluated:
    if len(pieces) == 1:
        return pieces[0]
    columns = (np.concatenate([getattr(piece, f.name) for piece in pieces]) for f in fields(Evaluated))
    return Evaluated(*columns)


class Evaluator(Protocol):
    """Finds the outputs of strikes, in pieces of at most a batch or so, each strike once, in any order.

    ``golden``: (images, ...) fault-free outputs, the very bits that an idle row of the whole twin has. Raises EngineError
    when the engine fails, NotDeterministic when a struck element did not hold its golden word.
    """

    @property
    def golden(self) -> NDArray[np.float32]: ...

    def evaluate(self, strikes: Strikes) -> Iterator[Evaluated]: ...
