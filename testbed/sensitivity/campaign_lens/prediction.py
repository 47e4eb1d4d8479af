"""Whether the rank of the true class at the injected block, without the fault, predicts what the fault does.

Golden states alone tell the rank, so every stored row counts here, not only the sampled ones. Rates by band are the
campaign's own estimator (`testbed.analysis.survey`). Areas under the ROC curve are weighed like rates; their intervals are
percentiles of a bootstrap that draws whole images, as all faults on an image share its ranks, and of weight faults whole
faults too, as these share their outcomes (the pigeonhole bootstrap, Owen 2007, which is wide rather than narrow).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from testbed.analysis.domains import Estimate, sums_by
from testbed.analysis.roc import concordance
from testbed.analysis.stats import RARE
from testbed.core.arrays import Bools, Float64s, Int64s
from testbed.sensitivity.campaign_lens.record import LensEstimate, LensRate, OutcomeEvent, Prediction, RankBand
from testbed.sensitivity.campaign_lens.rows import BEHIND, LensRows

RESAMPLES = 1000
_EVENTS: tuple[OutcomeEvent, ...] = ("sdc1", "outside")


def ranks_of(rows: LensRows, golden: Int64s) -> Int64s:
    """(n,) rank of the true class at each row's injected block; -1 behind the last state. golden: (images, states)."""
    ranks: Int64s = np.where(rows.entry == BEHIND, -1, golden[rows.image, rows.entry])
    return ranks


def rank_bands(classes: int) -> list[tuple[int, int]]:
    """(lowest, highest) rank of each band: the best, the second, then up to a quarter, half and all of the classes."""
    last = sorted({min(rank, classes - 1) for rank in (0, 1, classes // 4, classes // 2, classes - 1)})
    return [(low + 1, high) for low, high in pairwise([-1, *last])]


def band_rates(rows: LensRows, ranks: Int64s, classes: int, confidence: float) -> list[RankBand]:
    """Rates of every band that has rows: of all classes of bits, and of each in which any row is outside the tolerance."""
    return list(_band_rates(rows, ranks, classes, confidence))


def _band_rates(rows: LensRows, ranks: Int64s, classes: int, confidence: float) -> Iterator[RankBand]:
    bands = rank_bands(classes)
    band = np.searchsorted([high for _, high in bands], np.minimum(ranks, classes - 1))
    for bit_class in scopes_of(rows):
        inside = (ranks >= 0) & of_class(rows, bit_class)
        if bit_class is not None and not (rows.outside & inside).any():
            continue
        domains = rows.design.domains(np.where(inside, band, -1))
        rates = {event: domains.estimates(getattr(rows, event), confidence) for event in _EVENTS}
        for number, (low, high) in enumerate(bands):
            if number in rates["sdc1"]:
                estimates = {event: rate_of(rates[event][number]) for event in _EVENTS}
                yield RankBand(bit_class=bit_class, low=low, high=high, **estimates)


def campaign_rate(rows: LensRows, event: OutcomeEvent, confidence: float) -> LensRate:
    """The campaign's own rate of an event, of the faults that the lens sees."""
    return rate_of(rows.design.by_group(getattr(rows, event), rows.entry != BEHIND, confidence)[True])


def rate_of(estimate: Estimate) -> LensRate:
    """The campaign's estimate as a part of the record."""
    return LensRate(
        value=estimate.rate,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n_rows,
        faults=estimate.n_clusters,
    )


def predictions(rows: LensRows, ranks: Int64s, confidence: float, seed: int) -> list[Prediction]:
    """Areas of both events, over all classes of bits and within each."""
    return list(_predictions(rows, ranks, confidence, seed))


def _predictions(rows: LensRows, ranks: Int64s, confidence: float, seed: int) -> Iterator[Prediction]:
    for bit_class in scopes_of(rows):
        inside = np.flatnonzero((ranks >= 0) & of_class(rows, bit_class))
        part, score = rows.take(inside), ranks[inside]
        if not len(part):
            continue
        alike = np.unique(np.stack([part.entry, _codes(part.bit_class)], 1), axis=0, return_inverse=True)[1].ravel()
        for event in _EVENTS:
            events: Bools = getattr(part, event)
            known = min(int(events.sum()), int((~events).sum())) >= RARE
            areas: list[LensEstimate | None] = [None, None]
            if known:
                areas = [
                    area_under(part, score, events, group, confidence, seed) for group in (np.zeros_like(alike), alike)
                ]
            yield Prediction(
                bit_class=bit_class,
                event=event,
                n=len(np.unique(part.fault_id)),
                events=int(events.sum()),
                images=len(np.unique(part.image)),
                auc=areas[0],
                auc_alike=areas[1],
            )


def area_under(
    rows: LensRows, score: Int64s, events: Bools, group: Int64s, confidence: float, seed: int
) -> LensEstimate | None:
    """Area under the ROC curve over pairs within a group, with its bootstrap interval; None where there is no pair."""
    cells = _Cells.of(rows, score, events, group)
    area = float(cells.areas(np.ones((1, len(cells.weight))))[0])
    if np.isnan(area):
        return None
    random = np.random.default_rng([seed, 1])
    drawn = np.concatenate([cells.areas(cells.times(random)[None]) for _ in range(RESAMPLES)])
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return LensEstimate(value=area, low=min(float(low), area), high=max(float(high), area), n=cells.faults)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Rows that are alike, counted together: their image, fault (0 where a fault has one image), position in the table of
    groups and scores, and weight."""

    image: Int64s
    fault: Int64s
    position: Int64s
    event: Bools
    weight: Float64s
    shape: tuple[int, int]
    faults: int

    @classmethod
    def of(cls, rows: LensRows, score: Int64s, events: Bools, group: Int64s) -> _Cells:
        scores, score_code = np.unique(score, return_inverse=True)
        shape = int(group.max()) + 1, len(scores)
        position = group * len(scores) + score_code
        fault, image = _codes(rows.fault_id), _codes(rows.image)
        faults = int(fault.max()) + 1
        if rows.model.scope != "persistent":
            fault = np.zeros_like(fault)
        keys = np.stack([image, fault, position, events.astype(np.int64)], 1)
        cells, cell = np.unique(keys, axis=0, return_inverse=True)
        weight = sums_by(cell.ravel(), rows.weight)
        return cls(cells[:, 0], cells[:, 1], cells[:, 2], cells[:, 3] == 1, weight, shape, faults)

    def times(self, random: np.random.Generator) -> Float64s:
        """(cells,) how often each is in one resample."""
        times = _resampled(self.image, random)
        return times * _resampled(self.fault, random) if self.fault.any() else times

    def areas(self, times: Float64s) -> Float64s:
        """(draws,) area of each resample. times: (draws, cells)."""
        size = self.shape[0] * self.shape[1]
        tables = []
        for of in (self.event, ~self.event):
            counted = [np.bincount(self.position[of], (row * self.weight)[of], size) for row in times]
            tables.append(np.array(counted, np.float64).reshape(len(times), *self.shape))
        return concordance(tables[0], tables[1])


def _resampled(label: Int64s, random: np.random.Generator) -> Float64s:
    units = int(label.max()) + 1
    counts = np.bincount(random.integers(0, units, units), minlength=units)
    times: Float64s = counts[label].astype(np.float64)
    return times


def scopes_of(rows: LensRows) -> list[str | None]:
    """None for all, then the classes of bits, in the order of the rows."""
    classes = list(dict.fromkeys(rows.bit_class.tolist()))
    return [None, *classes] if len(classes) > 1 else [None]


def of_class(rows: LensRows, bit_class: str | None) -> Bools:
    """(n,) which rows are of this class of bits; all for None."""
    return np.ones(len(rows), bool) if bit_class is None else rows.bit_class == bit_class


def _codes(labels: np.ndarray) -> Int64s:
    codes: Int64s = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return codes
