"""Adaptive campaigns: each round's plan from the rows of the completed rounds, and nothing else.

What is sampled and when to stop is in the spec's [stop] table; how is in `testbed.analysis.adaptive.sequential`. A
planner has no memory: everything follows from the spec, the sites, the images and the counts of the rounds, so that a
campaign that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.analysis.adaptive.gains import design_gains
from testbed.analysis.adaptive.sequential import Monitor
from testbed.analysis.stats import rounded_share
from testbed.analysis.stratified import StratumTally, sample_rates
from testbed.campaign.plan.frame import check_bits, sampling_frame
from testbed.campaign.plan.groups import FaultModel, Group, Values, all_strata, grouped
from testbed.campaign.plan.permutation import draw_of, group_places, members_of
from testbed.campaign.plan.row import Origin, PlannedFault, planned_fault
from testbed.campaign.plan.steer.value_classes import ValueClasses, split_strata
from testbed.campaign.plan.table import PlanPart, check_decided, in_parts
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.stop_facts import DomainFacts, GainFacts, RoundFacts
from testbed.core.arrays import Float64s
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.outcome import NOT_OUTSIDE, Outcome
from testbed.core.site import SiteTable

DESIGN = (
    3  # of rounds: raised when others would follow from the same rows, so that no half of a campaign is gone on with
)


@dataclass(frozen=True)
class DomainDecision:
    """One part of the population whose rate is wanted. values: along the dimensions of ``per``.

    rate, low, high: at the last look, with that look's ``confidence``, which is what alpha spending left it. met: whether
    half the width is at most the margin. open: whether it is sampled further.
    """

    model: FaultModel
    values: Values
    rate: float
    low: float
    high: float
    confidence: float
    faults: int
    met: bool
    open: bool

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class StopDecision:
    """Whether to stop after ``rounds`` completed rounds. done: there is no next round. met: every margin was reached.
    widest: half the widest interval, each taken by itself, as if nobody had looked before."""

    rounds: int
    faults: int
    done: bool
    met: bool
    widest: float
    domains: tuple[DomainDecision, ...]


class AdaptivePlanner:
    """Plans rounds and says when to stop. Counts are one `StratumTally` per completed round, (H,) each: see `counts_of`."""

    def __init__(
        self,
        spec: CampaignSpec,
        tables: Mapping[str, SiteTable],
        tier_images: Sequence[Sequence[str]],
        guess: Callable[[Sequence[Group]], Float64s] | None = None,
        values: Mapping[str, ValueClasses] | None = None,
    ) -> None:
        """Prepares the groups and domains of a campaign. tables: sites by target. tier_images: ids of the named images
        per tier. guess: each group's rate, 0 to 1, as a proxy has it (`testbed.campaign.plan.steer.proxy`), if the spec asks
        for one. It steers and nothing else. values: by target, what strata by "value" are told apart by; without, they are not.

        Raises UsageError without a [stop] table, for a proxy that is asked for and not given, and for rates by bit of
        words in several number formats.
        """
        if spec.stop is None:
            raise UsageError("the spec has no [stop] table: its faults are planned at once")
        check_decided(spec)
        self.spec, self.stop, self.tables = spec, spec.stop, tables
        self.groups = grouped(split_strata(all_strata(spec, tables, tier_images), values), self.stop.sampled_by)
        if (self.stop.proxy == "none") != (guess is None):
            raise UsageError(
                f"stop.proxy is {self.stop.proxy!r}, and a proxy is {'not ' if guess is None else ''}given"
            )
        scores = None if guess is None else guess(self.groups)
        check_bits(self.groups, self.stop)
        self.frame, self.domains = sampling_frame(self.groups, self.stop, scores)
        self._deviation = None if scores is None else np.sqrt(np.clip(scores * (1 - scores), 1e-4, None))

    # ---- rounds

    def first_round(self) -> NDArray[np.int64]:
        """(groups,) faults of the first round."""
        return self._monitor([]).additions()[0].astype(np.int64)

    def round(self, number: int, counts: Sequence[StratumTally]) -> Iterator[PlanPart] | None:
        """The plan of round ``number`` from those before it, in parts of bounded size; None if it is not needed.

        Fault ids go on where the rounds before ended. What a round draws from a group is a stratum of its own, numbered on
        from those of the rounds before: see `populations`. ``inclusion`` is the share of a group drawn so far, this round's
        draws included; null where the group is endless. Raises ValueError unless there is one count for each earlier round.
        """
        if len(counts) != number:
            raise ValueError(f"round {number} follows from {number} rounds, not {len(counts)}")
        monitor = self._monitor(counts)
        if not monitor.open.any():
            return None
        additions = monitor.additions()[0].astype(np.int64)
        if not additions.any():
            return None
        before = monitor.tally.n[0].astype(np.int64)
        return in_parts(self._faults(number, before, additions))

    def _faults(self, number: int, before: NDArray[np.int64], additions: NDArray[np.int64]) -> Iterator[PlannedFault]:
        """Planned faults, in the order of the strata that the spec names, so that faults of one site are next to each
        other."""
        group_of, draw_of_row, member_of, place_of, order_of = (
            np.concatenate(column) for column in zip(*self._places(before, additions), strict=True)
        )
        fault_ids = count(int(before.sum()))
        for row in np.lexsort((draw_of_row, group_of, order_of)).tolist():
            h, draw_number = int(group_of[row]), int(draw_of_row[row])
            group = self.groups[h]
            stratum = group.members[member_of[row]][1]
            draw = draw_of(group, draw_number, stratum, int(place_of[row]), self.spec.seed)
            inclusion = None if group.endless else int(before[h] + additions[h]) / group.population
            origin = Origin(number * len(self.groups) + h, group.population, inclusion, number)
            yield planned_fault(next(fault_ids), stratum, draw, self.tables[stratum.target], origin)

    def _places(self, before: NDArray[np.int64], additions: NDArray[np.int64]) -> Iterator[tuple[NDArray, ...]]:
        """Per group: (group, draw number, member, place in it, the member's place among all strata) of its new draws."""
        for h in np.flatnonzero(additions).tolist():
            group, start, stop = self.groups[h], int(before[h]), int(before[h] + additions[h])
            member, position = members_of(group, group_places(group, self.spec.seed, start, stop))
            order = np.array([number for number, _ in group.members], np.int64)
            yield np.full(stop - start, h), np.arange(start, stop), member, position, order[member]

    # ---- counts

    def counts_of(self, plan: pa.Table, rows: Iterable[pa.Table | pa.RecordBatch]) -> StratumTally:
        """Counts of one round. plan: its faults; rows: those of its results, in pieces (columns fault_id and outcome);
        rows of other rounds are left out.

        Raises StaleArtefact if a planned fault has no row.
        """
        ids = plan.column("fault_id").to_numpy()
        first, faults = int(ids[0]), len(ids)
        seen, events = np.zeros(faults), np.zeros(faults)
        for chunk in rows:
            number = chunk.column("fault_id").to_numpy() - first
            of_round = (number >= 0) & (number < faults)
            event = self._is_event(chunk.column("outcome"))
            seen += np.bincount(number[of_round], minlength=faults)
            events += np.bincount(number[of_round], event[of_round], faults)
        if not seen.all():
            missing = int(first + np.flatnonzero(seen == 0)[0])
            raise StaleArtefact(
                f"fault {missing} of round {plan.column('round')[0]} has no row;"
                " rerun with `testbed campaign run SPEC --redo execute`"
            )
        value, strata = events / seen, len(self.groups)
        group = plan.column("stratum").to_numpy() % strata
        sums = (np.bincount(group, power, strata).astype(np.float64) for power in (value**0, value, value**2))
        return StratumTally(*sums)

    def _is_event(self, outcome: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        names = np.array(outcome.cast(pa.string()).to_pylist(), object)
        if self.stop.measure == "sdc1":
            return np.asarray(names == Outcome.SDC1)
        return ~np.isin(names, NOT_OUTSIDE)

    def populations(self, counts: Sequence[StratumTally]) -> NDArray[np.int64]:
        """(rounds x groups,) what the faults of each round's strata stand for, by the number of the stratum: a group's
        population is shared out among the rounds by their weights (`testbed.analysis.adaptive.weighing`), 1 or more to a
        stratum with a fault, whole numbers. So the rate of a plain stratified sample is the unbiased one."""
        rounds = self._monitor(counts).rounds
        shares = np.array([share[0] for share in rounds.shares()]) * self.frame.population
        drawn = np.array([draw.n[0] > 0 for draw in rounds.draws])
        upper = np.round(np.cumsum(shares, axis=0)).astype(np.int64)
        whole = np.diff(upper, axis=0, prepend=0)
        return np.where(drawn, np.maximum(whole, 1), 0).reshape(-1)

    # ---- looks

    def _monitor(self, counts: Sequence[StratumTally]) -> Monitor:
        monitor = Monitor(self.frame, self.stop.rule(self.spec.confidence), deviation=self._deviation)
        for tally in counts:
            monitor.observe(StratumTally(tally.n[None], tally.total[None], tally.squares[None]))
        return monitor

    def verdict(self, counts: Sequence[StratumTally]) -> StopDecision:
        """What is known after these rounds, and whether it is enough."""
        return self._verdict(self._monitor(counts))

    def _verdict(self, monitor: Monitor) -> StopDecision:
        faults = self.frame.sums(monitor.tally.n)[0].astype(int)
        columns = (monitor.rate, monitor.low, monitor.high, monitor.level, monitor.met, monitor.open)
        estimates = zip(self.domains, faults.tolist(), *(column[0].tolist() for column in columns), strict=True)
        domains = tuple(
            DomainDecision(model, values, rate, low, high, level, n, met, still_open)
            for (model, values), n, rate, low, high, level, met, still_open in estimates
        )
        alone = sample_rates(self.frame, monitor.rounds.sample(), self._confidence)
        return StopDecision(
            rounds=monitor.looks,
            faults=int(faults.sum()),
            done=not monitor.open.any(),
            met=bool(monitor.met.all()),
            widest=float(alone.half_width.max()),
            domains=domains,
        )

    @cached_property
    def _confidence(self) -> float:
        return self.stop.confidence or self.spec.confidence

    def history(
        self, counts: Sequence[StratumTally], seconds: Sequence[float | None] | None = None
    ) -> list[RoundFacts]:
        """One record per completed round: how narrow the intervals had become. seconds: when each round was
        complete, since the campaign began."""
        monitor = self._monitor([])
        records = []
        for tally, when in zip(counts, seconds or [None] * len(counts), strict=True):
            monitor.observe(StratumTally(tally.n[None], tally.total[None], tally.squares[None]))
            verdict = self._verdict(monitor)
            records.append(
                RoundFacts(
                    round=verdict.rounds - 1,
                    faults=verdict.faults,
                    seconds=when,
                    widest=rounded_share(verdict.widest),
                    open=sum(domain.open for domain in verdict.domains),
                    domains=[self.facts_of_domain(domain) for domain in verdict.domains],
                )
            )
        return records

    def gains(self, counts: Sequence[StratumTally]) -> list[GainFacts]:
        """What the design was worth in each domain, after these rounds."""
        at = [number for number, dimension in enumerate(self.stop.sampled_by) if dimension != "value"]
        keys = [(group.model, tuple(group.values[number] for number in at)) for group in self.groups]
        number = {key: code for code, key in enumerate(dict.fromkeys(keys))}
        coarser = np.array([number[key] for key in keys], np.int64)
        gains = design_gains(self.frame, self._monitor(counts).rounds.sample(), coarser)
        columns = (gains.total, gains.strata, gains.finer, gains.allocation)
        names = ("total", "strata", "values", "allocation")
        return [
            GainFacts(
                **{name: float(f"{gain:.4g}") if gain > 0 else None for name, gain in zip(names, row, strict=True)}
            )
            for row in np.stack(columns, 1).tolist()
        ]

    def facts_of_domain(self, domain: DomainDecision) -> DomainFacts:
        """The decision as manifests and summaries have it."""
        return DomainFacts(
            target=domain.model.target,
            where=domain.model.where,
            op=domain.model.label,
            pattern=domain.model.pattern,
            scope=domain.model.scope,
            **dict(zip(self.stop.domains, domain.values, strict=True)),
            rate=rounded_share(domain.rate),
            low=rounded_share(domain.low),
            high=rounded_share(domain.high),
            half_width=rounded_share(domain.half_width),
            confidence=rounded_share(domain.confidence),
            faults=domain.faults,
            met=domain.met,
            open=domain.open,
        )
