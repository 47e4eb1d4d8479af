"""What became of the looked-at faults: shares by kind, class of bit and block, depths, and at which states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from testbed.analysis.two_phase import TwoPhaseMean, TwoPhaseSample
from testbed.core.arrays import Bools, Float64s, Int64s
from testbed.sensitivity.campaign_lens.record import (
    AbsorbedWithin,
    Change,
    ChangeAt,
    LensDimension,
    LensEstimate,
    LensGroup,
    MedianDepth,
)
from testbed.sensitivity.campaign_lens.rows import LensRows
from testbed.sensitivity.campaign_lens.sample import GROUPS, group_of
from testbed.sensitivity.campaign_lens.walk import FaultPath

_CHANGES: tuple[Change, ...] = ("absorbed", "takes_over", "repaired")
_BY: tuple[LensDimension, ...] = ("kind", "bit_class", "block", "outcome")


class PathShares:
    """Estimates from the paths of sampled faults. rows, design and paths: of the same faults, in one order. states: names
    of the states."""

    def __init__(
        self,
        rows: LensRows,
        design: TwoPhaseSample,
        paths: Sequence[FaultPath],
        states: Sequence[str],
        confidence: float = 0.95,
    ) -> None:
        self.rows, self.design, self.paths, self.states, self.confidence = rows, design, paths, states, confidence
        self.depth: Float64s = np.array([np.inf if p.depth is None else p.depth for p in paths], np.float64)
        self.entry: Int64s = np.array([path.entry for path in paths], np.int64)
        self.at = {name: np.array([_or_none(getattr(p, name)) for p in paths]) for name in _CHANGES}

    def groups(self) -> list[LensGroup]:
        """All faults together, then by each dimension."""
        everything = np.ones(len(self.paths), bool)
        groups = [self._group("all", None, everything)]
        for by in _BY:
            labels = self._labels(by)
            for value in dict.fromkeys(sorted(labels, key=_order)):
                inside = np.array([label == value for label in labels])
                groups.append(self._group(by, value, inside))
        return groups

    def changes(self) -> list[ChangeAt]:
        """Shares of the faults that change so at all, by the state at which they do."""
        return list(self._changes())

    def _changes(self) -> Iterator[ChangeAt]:
        for change in _CHANGES:
            state = self.at[change]
            for number, name in enumerate(self.states):
                if (state == number).any():
                    yield ChangeAt(change=change, after=name, share=self._share(state == number, state >= 0))

    def _group(self, by: LensDimension, value: str | int | None, inside: Bools) -> LensGroup:
        within = self._within(inside)
        absorbed = inside & np.isfinite(self.depth)
        longest = max([1, *(len(self.states) - 1 - self.entry[absorbed])])
        scaled = self.design.mean(np.where(absorbed, self.depth, 0) / longest, absorbed, self.confidence)
        return LensGroup(
            by=by,
            value=value,
            n=int(inside.sum()),
            absorbed=self._share(np.isfinite(self.depth), inside),
            taken_over=self._share(self.at["takes_over"] >= 0, inside),
            repaired=self._share(self.at["repaired"] >= 0, inside),
            within=within,
            median_depth=median_of(within, int(inside.sum())),
            mean_depth=None if scaled is None else _estimate(scaled, longest),
        )

    def _within(self, inside: Bools) -> list[AbsorbedWithin]:
        """The share that is absorbed by each depth at which any fault of the group is."""
        reached = self.depth[inside & np.isfinite(self.depth)]
        deepest = int(reached.max()) if len(reached) else 0
        return [
            AbsorbedWithin(depth=depth, share=self._share(self.depth <= depth, inside)) for depth in range(deepest + 1)
        ]

    def _share(self, event: Bools, inside: Bools) -> LensEstimate:
        mean = self.design.mean(event.astype(np.float64), inside, self.confidence)
        assert mean is not None
        return _estimate(mean)

    def _labels(self, by: LensDimension) -> list[str | int | None]:
        if by == "block":
            return [None if path.entry == 0 else path.entry - 1 for path in self.paths]
        if by == "outcome":
            return [GROUPS[group] for group in group_of(self.rows)]
        column: list[str | int | None] = getattr(self.rows, by).tolist()
        return column


def median_of(within: Sequence[AbsorbedWithin], n: int) -> MedianDepth:
    """The first depth by which half are absorbed; its limits are those of the shares (Woodruff, JASA 1952)."""

    def first(end: str) -> int | None:
        return next((point.depth for point in within if getattr(point.share, end) >= 0.5), None)

    return MedianDepth(value=first("value"), low=first("high"), high=first("low"), n=n)


def _estimate(mean: TwoPhaseMean, factor: float = 1) -> LensEstimate:
    return LensEstimate(value=factor * mean.value, low=factor * mean.low, high=factor * mean.high, n=mean.n)


def _or_none(state: int | None) -> int:
    return -1 if state is None else state


def _order(label: str | int | None) -> tuple[bool, int, str]:
    """No block first, then by number, or by name."""
    return label is not None, label if isinstance(label, int) else 0, str(label)
