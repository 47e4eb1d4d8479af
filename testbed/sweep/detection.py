"""How many of the corrupted outputs a tolerance flags: population-weighted, with intervals, per confidence tier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.roc import areas, largest_accepted, rank_among
from testbed.analysis.stats import rounded_share
from testbed.analysis.survey import RowDomains
from testbed.sweep.points import DetectionRecord
from testbed.sweep.thresholds import Thresholds

Tier = int | None
"""None: all images."""
_OTHERS = -1  # rows without the event


@dataclass(frozen=True)
class DetectionRate:
    """A share of ``n`` rows of ``faults`` faults. low, high: also allow for the ``undecided`` rows, either way; so do high_95
    and high_99, the one-sided upper bounds of a rate (an area has none)."""

    rate: float
    low: float
    high: float
    n: int
    faults: int
    undecided: int = 0
    high_95: float | None = None
    high_99: float | None = None

    def to_record(self) -> DetectionRecord:
        """Round it to what is kept."""
        return DetectionRecord(
            rate=rounded_share(self.rate),
            low=rounded_share(self.low),
            high=rounded_share(self.high),
            high_95=None if self.high_95 is None else rounded_share(self.high_95),
            high_99=None if self.high_99 is None else rounded_share(self.high_99),
            n=self.n,
            faults=self.faults,
            **({"undecided": self.undecided} if self.undecided else {}),
        )


class Detection:
    """Detection of one event (``event``: (n,) bool) among the rows of one fault model."""

    def __init__(self, thresholds: Thresholds, event: NDArray[np.bool_], confidence: float) -> None:
        self._thresholds, self.event, self._confidence = thresholds, event, confidence
        self._tier = np.where(event, thresholds.tier, _OTHERS)
        self._rates_of: dict[tuple[float, ...], dict[Tier, DetectionRate]] = {}

    @cached_property
    def _groupings(self) -> tuple[RowDomains, RowDomains]:
        design = self._thresholds.design
        return design.domains(self._tier), design.domains(np.where(self.event, 0, _OTHERS))

    def rows(self, tier: Tier) -> NDArray[np.bool_]:
        """(n,) which rows of the tier have the event."""
        return self.event if tier is None else self._tier == tier

    def at(self, rtol: float, atol: float) -> dict[Tier, DetectionRate]:
        """Rate of flagged rows per tier, and over all (None). A tier without the event is left out."""
        flagged, undecided = self._thresholds.flagged(rtol, atol), self._thresholds.undecided(rtol, atol)
        sets = flagged, flagged & ~undecided, flagged | undecided
        # Sets at one rtol lie within each other, so that their sizes tell them apart.
        key = (rtol, *(int((rows & self.event).sum()) for rows in sets))
        if key not in self._rates_of:
            self._rates_of[key] = self._rates(*sets, undecided)
        return self._rates_of[key]

    def _rates(
        self, flagged: NDArray, surely: NDArray, possibly: NDArray, undecided: NDArray
    ) -> dict[Tier, DetectionRate]:
        rates: dict[Tier, DetectionRate] = {}
        by_tier, overall = self._groupings
        exact = not (undecided & self.event).any()
        tiers_of: tuple[tuple[RowDomains, dict[Any, Tier]], ...] = (
            (overall, {0: None}),
            (by_tier, {tier: tier for tier in np.unique(self._tier).tolist()}),
        )
        for domains, tiers in tiers_of:
            middle = domains.estimates(flagged, self._confidence)
            low, high = middle, middle
            if not exact:
                low, high = (domains.estimates(rows, self._confidence) for rows in (surely, possibly))
            for label, tier in tiers.items():
                if label == _OTHERS or label not in middle:
                    continue
                rates[tier] = DetectionRate(
                    middle[label].rate,
                    low[label].low,
                    high[label].high,
                    middle[label].n_rows,
                    middle[label].n_clusters,
                    int((undecided & self.rows(tier)).sum()),
                    high[label].high_95,
                    high[label].high_99,
                )
        return rates

    def areas(self, rtol: float, clean: Callable[[Tier], NDArray[np.float64]]) -> dict[Tier, DetectionRate]:
        """Area under the ROC curve per tier, and over all (None). clean: the fault-free scores of a tier.

        The interval's ends also allow for what rows of incremental evaluation are not known about.
        """
        rows, by_tier, overall = self._thresholds, *self._groupings
        score, error = rows.atol[:, rows.rtols.index(rtol)], rows.error
        sides = [score] * 3 if rows.is_exact else [score, score - error, score + error]
        tiers = [tier for tier in np.unique(self._tier).tolist() if tier != _OTHERS]
        areas_by_tier: dict[Tier, DetectionRate] = {}
        for domains, labels in ((overall, {0: None} if tiers else {}), (by_tier, {tier: tier for tier in tiers})):
            ranked = [areas(domains, self._ranks(side, labels.values(), clean), self._confidence) for side in sides]
            for label, tier in labels.items():
                middle, low, high = (side[label] for side in ranked)
                areas_by_tier[tier] = DetectionRate(middle.rate, low.low, high.high, middle.n_rows, middle.n_clusters)
        return areas_by_tier

    def _ranks(
        self, scores: NDArray[np.float64], tiers: Iterable[Tier], clean: Callable[[Tier], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """(n,) of each row among the fault-free images of its tier."""
        ranks = np.zeros(len(scores))
        for tier in tiers:
            of_tier = self.rows(tier)
            ranks[of_tier] = rank_among(scores[of_tier], clean(tier))
        return ranks

    def largest_atol(self, rtol: float, tier: Tier, wanted: float) -> float | None:
        """The largest atol at which the lower limit of the detection rate is ``wanted`` or more; infinity where that
        holds at any, None where it holds at none."""
        scores = self._thresholds.atol[self.rows(tier), self._thresholds.rtols.index(rtol)]
        return largest_accepted(scores, lambda atol: self.at(rtol, atol)[tier].low >= wanted)
