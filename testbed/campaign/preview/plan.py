"""What a campaign would sample from, and how many faults a margin asks for. Runs nothing unless asked for a timing.

Strata are told one at a time: their number may be large, what is kept is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np

from testbed.analysis.adaptive.allocation import smallest_sample
from testbed.analysis.stats import leveugle
from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.plan.draw import Stratum
from testbed.campaign.plan.groups import Values, model_of, values_of
from testbed.campaign.plan.sections import sampled_strata
from testbed.campaign.prepare.subject import PreviewSubject
from testbed.campaign.prepare.subjects import subject_of
from testbed.campaign.preview.dry_run import sites_and_speed
from testbed.campaign.preview.forecast import forecast, reasons
from testbed.campaign.preview.records import (
    ASSUMED_IMAGES,
    AdaptiveBounds,
    ImagesEach,
    PartPreview,
    PreviewCost,
    PreviewHead,
    PreviewTotals,
)
from testbed.campaign.preview.sites import sketched_sites
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.spec.stop import StopDimension, StopSpec, dimensions
from testbed.core.fault import FaultModel
from testbed.core.site import SiteTable

_WORST_RATE = 0.5  # of which an absolute margin needs most faults
_WIDEST_MARGIN = 0.49
FINEST: tuple[StopDimension, ...] = ("site", "bit", "tier")


@dataclass(frozen=True)
class Wanted:
    """How well each part's rate is to be known. rate: what is expected of it; relative: the margin is a share of that."""

    margin: float
    confidence: float
    rate: float = 0.5
    relative: bool = False

    def faults(self, population: float) -> int:
        """Leveugle's n; population: infinity where faults are without number."""
        return leveugle(population, self.margin, self.confidence, self.rate, self.relative)


@dataclass
class _PreviewPart:
    strata: int = 0
    population: int = 0
    drawn: int = 0
    drawable: float = 0  # infinity where faults of random content are without number


@dataclass
class _CostSums:
    faults: int = 0
    rows: int = 0
    seconds: float | None = None

    def add(self, faults: int, rows_each: int, seconds_per_row: float | None) -> None:
        self.faults += faults
        self.rows += faults * rows_each
        if seconds_per_row is not None:
            self.seconds = (self.seconds or 0) + faults * rows_each * seconds_per_row

    @property
    def cost(self) -> PreviewCost:
        return PreviewCost(self.faults, self.rows, None if self.seconds is None else round(self.seconds, 1))


@dataclass
class _PartSums:
    parts: int = 0
    strata: int = 0
    population: int = 0
    drawn: _CostSums = field(default_factory=_CostSums)
    leveugle: _CostSums = field(default_factory=_CostSums)


class Preview:
    """A spec's strata as ``by`` puts them together. ``parts`` tells them; then ``totals`` has their sums.

    by: dimensions (`testbed.campaign.spec.stop.dimensions`). seconds_per_row: what a row costs; None if not known. measured:
    time the engine here and now instead, as a dry run does. subject: the spec's, unless stated. Raises UsageError for anything
    the spec names that does not exist, and for margins no sample size belongs to.
    """

    def __init__(
        self,
        spec: CampaignSpec,
        wanted: Wanted,
        by: Sequence[StopDimension] | None = None,
        seconds_per_row: float | None = None,
        measured: bool = False,
        subject: PreviewSubject | None = None,
    ) -> None:
        self._auto = spec.auto_places
        spec = spec.plain.with_images(dict.fromkeys(self._auto, ASSUMED_IMAGES))
        self.spec, self.wanted = spec, wanted
        finest = FINEST if spec.stop is None else spec.stop.sampled_by
        self.by = finest if by is None else tuple(by)
        subject = subject or subject_of(spec)
        subject.check_sites()
        self.tables: dict[str, SiteTable] = {}
        self._seconds: dict[str, float | None] = {}
        for target in spec.targets:
            if measured:
                self.tables[target], seconds, _ = sites_and_speed(spec, subject, target)
                self._seconds[target] = seconds / spec.engine.sketched_batch
            else:
                self.tables[target], self._seconds[target] = sketched_sites(spec, subject, target), seconds_per_row
        self.tier_images = [[f"{tier}/{n}" for n in range(count)] for tier, count in enumerate(spec.tiers.images)]
        self.images = sum(spec.tiers.images)
        self._sums = _PartSums()
        wanted.faults(1)  # refuses a wrong one at once

    # ---- parts

    def parts(self) -> Iterator[PartPreview]:
        """One record per part, fault models apart: its population N, Leveugle's n, and what the spec draws."""
        self._sums = _PartSums()
        for (model, values), part in self._parts():
            leveugle_n = self.wanted.faults(part.drawable)
            self._add(model, part, leveugle_n)
            yield PartPreview(model, self.by, values, part.strata, part.population, leveugle_n, part.drawn)

    def _parts(self) -> Iterator[tuple[tuple[FaultModel, Values], _PreviewPart]]:
        if (
            set(self.by) >= set(FINEST) and self.spec.stop is None
        ):  # each stratum by itself: none has to wait for others
            for stratum, drawn in self._drawn():
                yield self._key(stratum), _PreviewPart(1, stratum.population, drawn, stratum.drawable)
            return
        parts: dict[tuple[FaultModel, Values], _PreviewPart] = {}
        for stratum, drawn in self._drawn():
            part = parts.setdefault(self._key(stratum), _PreviewPart())
            part.strata += 1
            part.population += stratum.population
            part.drawn += drawn
            part.drawable += stratum.drawable
        yield from parts.items()

    def _key(self, stratum: Stratum) -> tuple[FaultModel, Values]:
        return model_of(stratum), values_of(stratum, self.by)

    def _drawn(self) -> Iterator[tuple[Stratum, int]]:
        """Every stratum, and how many faults are drawn from it; in the first round, where there are several."""
        if self.spec.stop is not None:
            yield from self._first_round()
            return
        for sampled in sampled_strata(self.spec.faults, self.tables, self.tier_images):
            yield sampled.stratum, sampled.drawn

    def _first_round(self) -> Iterator[tuple[Stratum, int]]:
        """An adaptive campaign's strata as they are sampled: its faults are told of the first stratum of each."""
        planner = self.planner
        for group, drawn in zip(planner.groups, planner.first_round(), strict=True):
            counts = chain([int(drawn)], [0] * (len(group.members) - 1))
            for (_, stratum), count in zip(group.members, counts, strict=True):
                yield stratum, count

    @cached_property
    def planner(self) -> AdaptivePlanner:
        assert self.spec.stop is not None
        plain = self.spec.stop.model_copy(update={"proxy": "none"})
        return AdaptivePlanner(self.spec.model_copy(update={"stop": plain}), self.tables, self.tier_images)

    # ---- sums

    def _add(self, model: FaultModel, part: _PreviewPart, leveugle_n: int) -> None:
        sums, rows_each = self._sums, self._rows_each(model)
        sums.parts += 1
        seconds = self._seconds[model.target]
        sums.drawn.add(part.drawn, rows_each, seconds)
        sums.leveugle.add(leveugle_n, rows_each, seconds)
        sums.strata += part.strata
        sums.population += part.population

    def totals(self) -> PreviewTotals:
        """Sums over the parts that were told."""
        sums = self._sums
        return PreviewTotals(sums.parts, sums.strata, sums.population, sums.drawn.cost, sums.leveugle.cost)

    def all_totals(self) -> PreviewTotals:
        """Sums over all parts, none of which was told before."""
        for _ in self.parts():
            pass
        return self.totals()

    def head(self) -> PreviewHead:
        return PreviewHead(
            name=self.spec.name,
            by=list(self.by),
            margin=self.wanted.margin,
            relative=self.wanted.relative,
            rate=self.wanted.rate,
            confidence=self.wanted.confidence,
            images=self.images,
            adaptive=self._bounds(),
            images_each=tuple(self._images_each()),
        )

    def _images_each(self) -> Iterator[ImagesEach]:
        for target, where in self.spec.target_places:
            each = self.spec.images_each(target, where)
            if each is not None and each < self.images:
                yield ImagesEach(target, where, each, (target, where) in self._auto)

    def _bounds(self) -> AdaptiveBounds | None:
        """No adaptive campaign needs fewer faults than exact intervals without an event do; one whose rates are all 1/2,
        with nothing to tell strata apart, needs Leveugle's n and what the looks cost."""
        if self.spec.stop is None:
            return None
        planner, stop = self.planner, self.spec.stop
        rule = stop.rule(self.spec.confidence)
        sizes = planner.frame.sums(planner.frame.drawable).tolist()
        rate = _WORST_RATE
        said = self.wanted.rate not in (_WORST_RATE, _dearest_rate(stop))
        if stop.relative is not None:
            rate = self.wanted.rate if said else _dearest_rate(stop)
        margin = float(rule.margin_at(np.array(rate)))
        least = min(max(rule.margin, rule.relative), _WIDEST_MARGIN)  # rates may be as high as 1
        uniform = [leveugle(size, margin, rule.confidence, rate) for size in sizes]
        likely = forecast(planner, self.wanted.rate if said else None)
        return AdaptiveBounds(
            per=stop.per,
            domains=len(sizes),
            strata=len(planner.groups),
            faults_at_least=sum(int(min(smallest_sample(least, rule.confidence), size)) for size in sizes),
            leveugle=sum(uniform),
            relative=stop.relative,
            rate=rate,
            expected=self._cost_of(uniform),
            forecast=self._cost_of(np.ceil(likely.faults).astype(int).tolist()),
            forecast_uniform=self._cost_of(np.ceil(likely.uniform).astype(int).tolist()),
            because="; ".join(reasons(planner, likely)),
        )

    def _cost_of(self, faults: Sequence[int]) -> PreviewCost:
        """The cost of so many faults of each domain."""
        cost = _CostSums()
        for (model, _), count in zip(self.planner.domains, faults, strict=True):
            cost.add(count, self._rows_each(model), self._seconds[model.target])
        return cost.cost

    def _rows_each(self, model: FaultModel) -> int:
        """Rows of one fault of the model."""
        if model.scope != "persistent":
            return 1
        return min(self.images, self.spec.images_each(model.target, model.where) or self.images)


def _dearest_rate(stop: StopSpec) -> float:
    """The rate that takes most faults to be known as well as is asked."""
    return _WORST_RATE if stop.relative is None else min(_WORST_RATE, stop.margin / stop.relative)


def wanted_of(
    spec: CampaignSpec, margin: float | None, confidence: float | None, rate: float, relative: bool
) -> Wanted:
    """What is not said is as the spec's [stop] has it; without one, a margin of 0.01 and the campaign's confidence. Where
    [stop] wants a share of each rate, and no rate is expected, it is the one that takes most faults."""
    stop = spec.stop
    if margin is None and not relative and stop is not None and stop.relative is not None:
        rate = rate if rate != _WORST_RATE else _dearest_rate(stop)
        margin, relative = stop.relative, True
    if margin is None:
        margin = stop.margin if stop is not None else 0.01
    if confidence is None:
        confidence = (stop.confidence if stop is not None else None) or spec.confidence
    return Wanted(margin, confidence, rate, relative)


def asked_dimensions(text: str | None) -> tuple[StopDimension, ...] | None:
    """None for the strata as they are sampled."""
    return None if text is None else dimensions(text)
