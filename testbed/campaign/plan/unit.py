"""A unit of work: a slice of a plan, handed out and stored whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True)
class Unit:
    """Rows ``start`` to ``stop`` of one plan file of the run folder. ``number``: the unit's key in the result store.

    rows: the result rows it gives. word, words: where its golden words lie among the plan's. run: the plan row at which
    the run of faults of one target, place and scope begins that it is cut from. count: how many units of the store it
    holds, those numbered from ``number``; several where neighbours were joined (`testbed.campaign.work.spans`).
    """

    number: int
    plan: str
    start: int
    stop: int
    rows: int = 0
    word: int = 0
    words: int = 0
    run: int = 0
    count: int = 1

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def numbers(self) -> range:
        """Numbers of the store's units that it holds."""
        return range(self.number, self.number + self.count)

    def precedes(self, other: Self) -> bool:
        """Whether the two can be joined: neighbours of one run of the same plan."""
        here = (self.plan, self.run, self.stop, self.number + self.count)
        return here == (other.plan, other.run, other.start, other.number)

    def joined(self, other: Self) -> Self:
        """This one and the one that it precedes."""
        return replace(
            self,
            stop=other.stop,
            rows=self.rows + other.rows,
            words=self.words + other.words,
            count=self.count + other.count,
        )
