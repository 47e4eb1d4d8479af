"""Rates from counts: one fault model's rates with their intervals, over everything and by what the faults have in
common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.domains import Cells, Domains, Estimate, Strata, sums_by
from testbed.campaign.summary.tally import Profile, Tally
from testbed.core.arrays import Float64s, Int64s
from testbed.core.fault import FaultModel
from testbed.core.outcome import DUES, HOWS, MEASURES, OUTCOMES

RATE_DIMENSIONS = ("tier", "kind", "bit_class", "bit", "block", "site")


class Cell(NamedTuple):
    tier: int
    site: str
    kind: str
    bit_class: str


class RateGroup(NamedTuple):
    """The rates of one group of faults. value: what its profiles have in common; tier: None where tiers are not told
    apart. rates: by measure."""

    value: Any
    tier: int | None
    rates: dict[str, Estimate]


def fault_models(tally: Tally, population: NDArray[np.int64], confidence: float) -> Iterator[ModelRates]:
    """The rows of each fault model, in the order of their strata. population: of each stratum, by its number."""
    profiles = tally.profiles
    models = [FaultModel(p.target, p.where, p.op, p.pattern, p.scope) for p in profiles]
    numbers = {model: number for number, model in enumerate(dict.fromkeys(models))}
    model_of_profile = np.array([numbers[model] for model in models])
    faults = tally.faults[MEASURES[0]].table()
    for number in by_first_stratum(model_of_profile[faults["profile"]], faults["stratum"]):
        of_model = model_of_profile == number
        yield ModelRates(models[int(np.argmax(of_model))], tally, profiles, of_model, population, confidence)


class ModelRates:
    """The rows of one fault model, as a stratified sample of faults."""

    def __init__(
        self,
        model: FaultModel,
        tally: Tally,
        profiles: Sequence[Profile],
        is_own: NDArray[np.bool_],
        population: NDArray[np.int64],
        confidence: float,
    ) -> None:
        """Takes one model's rows of a tally. profiles: all the tally's; is_own: which of them are of this model.
        population: of each stratum, by its number."""
        self.model, self.confidence = model, confidence
        self.profiles = [profile for profile, own in zip(profiles, is_own, strict=True) if own]
        number = np.cumsum(is_own) - 1

        def of_model(table: dict[str, Int64s]) -> dict[str, Int64s]:
            kept = is_own[table["profile"]]
            own = {name: column[kept] for name, column in table.items()}
            return {**own, "profile": number[own["profile"]]}

        self.faults = {measure: of_model(counts.table()) for measure, counts in tally.faults.items()}
        self.tiers = {measure: of_model(counts.table()) for measure, counts in tally.tiers.items()}
        self.checked = {question: of_model(counts.table()) for question, counts in tally.checked.items()}
        self.outcomes = of_model(tally.outcomes.table())
        self.numbers, self.strata = self._strata(population)

    def _strata(self, population: NDArray[np.int64]) -> tuple[Int64s, Strata]:
        """(numbers of the strata, ascending; what is known of each)."""
        faults = self.faults[MEASURES[0]]
        numbers, first, stratum = np.unique(faults["stratum"], return_index=True, return_inverse=True)
        count, rows = faults["count"], faults["cluster_rows"]
        # strata of one site and bit class lend each other their variance where only one fault was drawn from each
        cells = [(self.profiles[p].site, self.profiles[p].bit_class) for p in faults["profile"][first]]
        labels = {cell: number for number, cell in enumerate(dict.fromkeys(cells))}
        return numbers, Strata(
            weight=population[numbers].astype(np.float64),
            clusters=np.bincount(stratum, count).astype(np.int64),
            rows=np.bincount(stratum, count * rows).astype(np.int64),
            square_rows=sums_by(stratum, count * rows**2),
            alike=np.array([labels[cell] for cell in cells]),
        )

    def of_checks(self, question: str, confidence: float | None = None) -> Estimate | None:
        """The share that a question of `tally.CHECKED` asks for, of a detecting engine; None where no row is asked about.

        confidence: of the interval, the summary's unless said.
        """
        table = self.checked[question]
        if not len(table["count"]):
            return None
        label = np.zeros(len(table["count"]), np.int64)
        domains, events = self._domains(table, label, np.zeros(1, np.int64), [0])
        return domains.estimates_of(events, confidence or self.confidence)[0]

    def over_all(self) -> RateGroup:
        return self._grouped(lambda profile: True)[0]

    def by(self, dimension: str) -> list[tuple[str | int, RateGroup]]:
        """(value, rates) by one of `RATE_DIMENSIONS`, in the order of the strata; faults that have no value are left out."""
        if dimension == "tier":
            return [(int(group.tier or 0), group) for group in self._grouped(lambda profile: True, by_tier=True)]
        return [(group.value, group) for group in self._grouped(lambda profile: getattr(profile, dimension))]

    def by_bit(self, formats: Mapping[str, str]) -> list[tuple[tuple[str, int], RateGroup]]:
        """((number format, bit), rates), in the order of the strata: bit 7 is a sign in int8 and a mantissa bit in fp32.
        formats: of the words of each site; "" where it is not known."""
        groups = self._grouped(
            lambda profile: None if profile.bit is None else (formats.get(profile.site, ""), profile.bit)
        )
        return [(group.value, group) for group in groups]

    def by_all(self, dimensions: Sequence[str], formats: Mapping[str, str]) -> list[tuple[tuple[Any, ...], RateGroup]]:
        """(values, rates) by several of `RATE_DIMENSIONS`, and "format", at once, in the order of the strata; None where
        a fault has no value. formats: of the words of each site."""
        others = [name for name in dimensions if name != "tier"]

        def value_of(profile: Profile) -> tuple[Any, ...]:
            return tuple(formats.get(profile.site) if n == "format" else getattr(profile, n) for n in others)

        groups = self._grouped(value_of, "tier" in dimensions)

        def values_of(group: RateGroup) -> tuple[Any, ...]:
            known = dict(zip(others, group.value, strict=True)) | {"tier": group.tier}
            return tuple(known[name] for name in dimensions)

        return [(values_of(group), group) for group in groups]

    def cells(self) -> list[tuple[Cell, RateGroup]]:
        """Rates by tier, site and bit class."""
        groups = self._grouped(lambda profile: (profile.site, profile.kind, profile.bit_class), by_tier=True)
        return [(Cell(int(group.tier or 0), *group.value), group) for group in groups]

    def over_sites(self, importance: Mapping[str, float]) -> dict[str, Estimate]:
        """Rates by measure: those of the sites that have an importance as one, in which each site weighs by it."""
        sites = list(dict.fromkeys(p.site for p in self.profiles if p.site in importance))
        code_of_profile = np.array([sites.index(p.site) if p.site in importance else -1 for p in self.profiles])
        position, weights = np.arange(len(sites)), np.array([importance[site] for site in sites])
        estimates = {}
        for measure, table in self.faults.items():
            domains, events = self._domains(table, code_of_profile[table["profile"]], position, position.tolist())
            estimates[measure] = domains.combined(events, weights, self.confidence)
        return estimates

    def _grouped(self, value_of: Callable[[Profile], Any], by_tier: bool = False) -> list[RateGroup]:
        """Groups faults by a value. value_of: None for faults that are in no group."""
        tables = self.tiers if by_tier else self.faults
        values = [value_of(profile) for profile in self.profiles]
        codes = {value: code for code, value in enumerate(dict.fromkeys(v for v in values if v is not None))}
        code_of_profile = np.array([-1 if value is None else codes[value] for value in values])
        tiers = 1 + max(int(table["tier"].max()) for table in self.tiers.values())

        def label_of(table: dict[str, Int64s]) -> Int64s:
            code = code_of_profile[table["profile"]]
            return np.where(code < 0, -1, code * tiers + (table["tier"] if by_tier else 0))

        first = tables[MEASURES[0]]
        labels = by_first_stratum(label_of(first), first["stratum"])
        position = np.zeros(len(codes) * tiers, np.int64)
        position[labels] = np.arange(len(labels))
        rates = {
            measure: self._estimates(table, label_of(table), position, labels.tolist())
            for measure, table in tables.items()
        }
        names = list(codes)
        return [
            RateGroup(
                names[label // tiers],
                label % tiers if by_tier else None,
                {m: by_label[label] for m, by_label in rates.items()},
            )
            for label in labels.tolist()
        ]

    def _estimates(
        self, table: dict[str, Int64s], label: Int64s, position: Int64s, labels: list[int]
    ) -> dict[Hashable, Estimate]:
        """Estimates by label; rows of the table with none, -1, are in no group."""
        domains, events = self._domains(table, label, position, labels)
        return domains.estimates_of(events, self.confidence)

    def _domains(
        self, table: dict[str, Int64s], label: Int64s, position: Int64s, labels: list[int]
    ) -> tuple[Domains, Float64s]:
        """(the groups, events of their cells)."""
        table = {name: column[label >= 0] for name, column in table.items()}
        cells = Cells(
            group=position[label[label >= 0]],
            stratum=np.searchsorted(self.numbers, table["stratum"]),
            rows=table.get("rows", table["cluster_rows"]).astype(np.float64),
            cluster_rows=table["cluster_rows"].astype(np.float64),
            count=table["count"].astype(np.float64),
        )
        return Domains(self.strata, labels, cells), table["events"].astype(np.float64)

    # ---- counts of rows

    def outcomes_by_cell(self) -> dict[Cell, Counter[str]]:
        """Rows by outcome, and "nonfinite" ones, in each of `cells`."""
        by_cell: dict[Cell, Counter[str]] = {}
        columns = (self.outcomes[name].tolist() for name in ("profile", "tier", "outcome", "nonfinite", "count"))
        for number, tier, outcome, nonfinite, count in zip(*columns, strict=True):
            profile = self.profiles[number]
            counter = by_cell.setdefault(Cell(tier, profile.site, profile.kind, profile.bit_class), Counter())
            counter[OUTCOMES[outcome]] += count
            counter["nonfinite"] += nonfinite * count
        return by_cell

    def evaluations(self) -> dict[str, int]:
        """Rows by how their output was found."""
        counts = np.bincount(self.outcomes["evaluation"], self.outcomes["count"], len(HOWS)).astype(int)
        return {how: int(count) for how, count in zip(HOWS, counts, strict=True) if count}

    def dues(self) -> dict[str, int]:
        """Rows without an output that anybody could use, by cause."""
        counts = np.bincount(self.outcomes["due"], self.outcomes["count"], len(DUES) + 1).astype(int)[1:]
        return {due: int(count) for due, count in zip(DUES, counts, strict=True) if count}


def by_first_stratum(label: Int64s, stratum: Int64s) -> Int64s:
    """The labels from 0 that occur, in the order of the least stratum of each, and of themselves."""
    first = np.full(int(label.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    known = label >= 0
    np.minimum.at(first, label[known], stratum[known])
    occurring = np.unique(label[known])
    return occurring[np.argsort(first[occurring], kind="stable")]
