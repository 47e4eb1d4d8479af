"""Would a check of the first attention module's output have foreseen the changed prediction?

Of faults inside the module: "its output is out of tolerance" as a test for "the model's top-1 changes".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from testbed.analysis.domains import Estimate
from testbed.campaign.facts import LinkFacts
from testbed.campaign.files import RESULTS
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.results.reader import list_values
from testbed.core.folder.stage_facts import facts_of
from testbed.sweep.curves import ToleranceGrid, finite
from testbed.sweep.detection import DetectionRate, Tier
from testbed.sweep.floor import Floor
from testbed.sweep.link import LINK, LINK_TABLE, MODULE, OUTPUT, STAGE, VERSION
from testbed.sweep.points import DetectionRecord
from testbed.sweep.record import FaultModelRecord, LinkedModel, LinkPoint, LinkRecord, ModuleFloor, ModuleNoise
from testbed.sweep.thresholds import Thresholds

_NOT_ASKED = -1


@dataclass(frozen=True)
class LinkRates:
    """Sensitivity P(out | changed), specificity P(in | not changed), and the predictive values ppv P(changed | out), npv
    P(not changed | in); None where nothing is to be divided by."""

    sensitivity: DetectionRate | None
    specificity: DetectionRate | None
    ppv: DetectionRate | None
    npv: DetectionRate | None

    def to_record(self, atol: float, rtol: float) -> LinkPoint:
        return LinkPoint(
            atol=atol,
            rtol=rtol,
            sensitivity=_recorded(self.sensitivity),
            specificity=_recorded(self.specificity),
            ppv=_recorded(self.ppv),
            npv=_recorded(self.npv),
        )


class Linked:
    """Faults of one fault model in the module. ``module``: (n, rtols) the smallest absolute tolerance at which the
    module's output passes; ``changed``: (n,) whether the top-1 changed in the end."""

    def __init__(self, rows: Thresholds, module: NDArray[np.float64], confidence: float) -> None:
        assert rows.sdc1 is not None
        self.rows, self.module, self.changed, self._confidence = rows, module, rows.sdc1, confidence
        self.tiers: list[Tier] = [None, *np.unique(rows.tier).tolist()]
        self._rates_of: dict[tuple[float, int], dict[Tier, LinkRates]] = {}

    def of_tier(self, tier: Tier) -> NDArray[np.bool_]:
        return np.ones(len(self.changed), bool) if tier is None else self.rows.tier == tier

    def at(self, rtol: float, atol: float) -> dict[Tier, LinkRates]:
        """Rates at one tolerance, per tier and over all (None)."""
        out = self.module[:, self.rows.rtols.index(rtol)] > atol
        key = rtol, int(out.sum())  # sets at one rtol lie within each other
        if key not in self._rates_of:
            self._rates_of[key] = self._rates(out)
        return self._rates_of[key]

    def _rates(self, out: NDArray[np.bool_]) -> dict[Tier, LinkRates]:
        sensitivity = self._shares(self.changed, out)
        specificity = self._shares(~self.changed, ~out)
        ppv = self._shares(out, self.changed)
        npv = self._shares(~out, ~self.changed)
        return {
            tier: LinkRates(sensitivity.get(tier), specificity.get(tier), ppv.get(tier), npv.get(tier))
            for tier in self.tiers
        }

    def _shares(self, among: NDArray[np.bool_], which: NDArray[np.bool_]) -> dict[Tier, DetectionRate]:
        """The share of ``which`` per tier, and over all (None); a tier with nothing to divide by is left out."""
        overall = np.zeros(len(among), np.int64)
        groupings: tuple[tuple[NDArray[np.int64], dict[Any, Tier]], ...] = (
            (overall, {0: None}),
            (self.rows.tier, {tier: tier for tier in self.tiers if tier is not None}),
        )
        shares: dict[Tier, DetectionRate] = {}
        for group, tiers in groupings:
            rates = self.rows.design.by_group(which, np.where(among, group, _NOT_ASKED), self._confidence)
            shares |= {tier: _detection_rate(rates[label]) for label, tier in tiers.items() if label in rates}
        return shares


def _recorded(rate: DetectionRate | None) -> DetectionRecord | None:
    return None if rate is None else rate.to_record()


def _detection_rate(estimate: Estimate) -> DetectionRate:
    return DetectionRate(
        estimate.rate,
        estimate.low,
        estimate.high,
        estimate.n_rows,
        estimate.n_clusters,
        high_95=estimate.high_95,
        high_99=estimate.high_99,
    )


@dataclass(frozen=True)
class Followed:
    """Faults that were followed. fault_id, image_id: (n,); atol: (n, rtols) the smallest absolute tolerance at which
    the module's output passes."""

    fault_id: NDArray[np.int64]
    image_id: NDArray[np.object_]
    atol: NDArray[np.float64]


def read_link(workplace: Workplace, rtols: Sequence[float]) -> Followed | None:
    """The stored link at some rtols of the spec's grid; None where there is none, or none of these results."""
    record = workplace.folder.manifest["stages"].get(STAGE)
    wanted = {"results": workplace.folder.output_hash("execute", RESULTS), "version": VERSION}
    if record is None or any(record["inputs"].get(name) != value for name, value in wanted.items()):
        return None
    workplace.folder.verify(STAGE)
    path, grid = workplace.folder / LINK, workplace.spec.tolerance.rtol_grid
    table = LINK_TABLE.read(path)
    lists = table.column("module_masking_atol")
    atol = [list_values(lists, grid.index(rtol), len(grid), path, LINK_TABLE) for rtol in rtols]
    return Followed(table.column("fault_id").to_numpy(), table.column("image_id").to_numpy(), np.stack(atol, axis=1))


def linked(models: Iterable[Thresholds], link: Followed, sites: Sequence[str], confidence: float) -> Iterator[Linked]:
    """One for each fault model with rows in ``link``, whose ``atol`` must be at the models' rtols. sites: the module's."""
    followed = pd.MultiIndex.from_arrays([link.fault_id, link.image_id])
    for rows in models:
        if rows.sdc1 is None:
            continue
        keys = pd.MultiIndex.from_arrays([rows.rows["fault_id"], rows.rows["image_id"].astype(object)])
        position = followed.get_indexer(keys)
        if (which := position >= 0).any():
            yield Linked(_of_module(rows, sites).take(which), link.atol[position[which]], confidence)


def _of_module(rows: Thresholds, sites: Sequence[str]) -> Thresholds:
    """Each stratum's population cut down to the part of it, by the sample, that is at these sites: a stratum may hold
    others too, and of a limited link not all of the module's rows are there to stand for it."""
    inside = rows.rows["site"].isin(sites)
    share = inside.groupby(rows.rows["stratum"]).transform("mean")
    return replace(rows, rows=rows.rows.assign(population=rows.rows["population"] * share))


def describe_link(
    workplace: Workplace, grid: ToleranceGrid, models: Sequence[Thresholds], kept: Followed, floors: Sequence[Floor]
) -> LinkRecord:
    """What was followed, and the four rates at every tolerance, per fault model and tier."""
    facts = facts_of(workplace.folder, STAGE, LinkFacts)
    parts = linked(models, kept, facts.sites, workplace.spec.confidence)
    return LinkRecord(
        module=MODULE,
        output=OUTPUT,
        limit=workplace.folder.manifest["stages"][STAGE]["inputs"].get("limit"),
        sites=facts.sites,
        faults=facts.faults,
        rows=facts.rows,
        ended=facts.ended,
        checked=facts.checked,
        evaluated=facts.evaluated,
        models=[entry for part in parts for entry in _records(part, grid)],
        noise=[_module_noise(floor, workplace, grid) for floor in floors if floor.target == "attention"],
    )


def _records(part: Linked, grid: ToleranceGrid) -> Iterator[LinkedModel]:
    for tier in part.tiers:
        selected = part.of_tier(tier)
        yield LinkedModel(
            **dict(FaultModelRecord.of(part.rows.fault_model)),
            tier=tier,
            n_rows=int(selected.sum()),
            n_faults=len(np.unique(part.rows.rows["fault_id"].to_numpy()[selected])),
            n_sdc1=int((part.changed & selected).sum()),
            grid=[
                part.at(rtol, atol)[tier].to_record(atol, rtol) for rtol in grid.rtols for atol in grid.atols(None, ())
            ],
        )


def _module_noise(floor: Floor, workplace: Workplace, grid: ToleranceGrid) -> ModuleNoise:
    """The floor of the module on its own, as the campaign's second target."""
    columns = [workplace.spec.tolerance.rtol_grid.index(rtol) for rtol in grid.rtols]
    floors = [
        ModuleFloor(rtol=rtol, smallest_atol=finite(float(floor.atol[:, column].max())))
        for rtol, column in zip(grid.rtols, columns, strict=True)
    ]
    return ModuleNoise(**dict(floor.engine), n=len(floor.tier), floors=floors)
