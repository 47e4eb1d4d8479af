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
from testbed.campaign.facts import LinkFacts, facts_of
from testbed.campaign.files import RESULTS
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.results.reader import list_values
from testbed.sweep.curves import ToleranceGrid, describe_source, finite, rate_to_json
from testbed.sweep.detection import DetectionRate, Tier
from testbed.sweep.link import LINK, LINK_TABLE, MODULE, OUTPUT, STAGE, VERSION
from testbed.sweep.noise import Floor
from testbed.sweep.thresholds import Thresholds

_NOT_ASKED = -1


class Linked:
    """Faults of one fault model in the module. ``module``: (n, rtols) the smallest absolute tolerance at which the
    module's output passes; ``changed``: (n,) whether the top-1 changed in the end."""

    def __init__(self, rows: Thresholds, module: NDArray[np.float64], confidence: float) -> None:
        assert rows.sdc1 is not None
        self.rows, self.module, self.changed, self._confidence = rows, module, rows.sdc1, confidence
        self.tiers: list[Tier] = [None, *np.unique(rows.tier).tolist()]
        self._rates_of: dict[tuple[float, int], dict[Tier, dict[str, DetectionRate | None]]] = {}

    def of_tier(self, tier: Tier) -> NDArray[np.bool_]:
        return np.ones(len(self.changed), bool) if tier is None else self.rows.tier == tier

    def at(self, rtol: float, atol: float) -> dict[Tier, dict[str, DetectionRate | None]]:
        """Per tier and over all (None): sensitivity P(out | changed), specificity P(in | not changed), and the predictive
        values ppv P(changed | out), npv P(not changed | in); None where nothing is to be divided by."""
        out = self.module[:, self.rows.rtols.index(rtol)] > atol
        key = rtol, int(out.sum())  # sets at one rtol lie within each other
        if key not in self._rates_of:
            self._rates_of[key] = self._rates(out)
        return self._rates_of[key]

    def _rates(self, out: NDArray[np.bool_]) -> dict[Tier, dict[str, DetectionRate | None]]:
        asked = {
            "sensitivity": (self.changed, out),
            "specificity": (~self.changed, ~out),
            "ppv": (out, self.changed),
            "npv": (~out, ~self.changed),
        }
        rates_by_tier: dict[Tier, dict[str, DetectionRate | None]] = {tier: dict.fromkeys(asked) for tier in self.tiers}
        groupings: list[tuple[NDArray[np.int64], dict[Any, Tier]]] = [
            (np.zeros(len(out), np.int64), {0: None}),
            (self.rows.tier, {tier: tier for tier in self.tiers if tier is not None}),
        ]
        for name, (among, which) in asked.items():
            for group, tiers in groupings:
                rates = self.rows.design.by_group(which, np.where(among, group, _NOT_ASKED), self._confidence)
                for label, tier in tiers.items():
                    rates_by_tier[tier][name] = _detection_rate(rates[label]) if label in rates else None
        return rates_by_tier


def _detection_rate(estimate: Estimate) -> DetectionRate:
    return DetectionRate(estimate.rate, estimate.low, estimate.high, estimate.n_rows, estimate.n_clusters)


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
) -> dict[str, Any]:
    """JSON-ready: what was followed, and the four rates at every tolerance, per fault model and tier."""
    record = workplace.folder.manifest["stages"][STAGE]
    sites = facts_of(workplace.folder, STAGE, LinkFacts).sites
    parts = linked(models, kept, sites, workplace.spec.confidence)
    return {
        "module": MODULE,
        "output": OUTPUT,
        "limit": record["inputs"].get("limit"),
        **record["facts"],
        "models": [entry for part in parts for entry in _records(part, grid)],
        "noise": [_module_floor(floor, workplace, grid) for floor in floors if floor.target == "attention"],
    }


def _records(part: Linked, grid: ToleranceGrid) -> Iterator[dict[str, Any]]:
    for tier in part.tiers:
        selected = part.of_tier(tier)
        yield {
            **part.rows.fault_model,
            "tier": tier,
            "n_rows": int(selected.sum()),
            "n_faults": len(np.unique(part.rows.rows["fault_id"].to_numpy()[selected])),
            "n_sdc1": int((part.changed & selected).sum()),
            "grid": [
                {
                    "atol": atol,
                    "rtol": rtol,
                    **{name: rate_to_json(rate) for name, rate in part.at(rtol, atol)[tier].items()},
                }
                for rtol in grid.rtols
                for atol in grid.atols(None, ())
            ],
        }


def _module_floor(floor: Floor, workplace: Workplace, grid: ToleranceGrid) -> dict[str, Any]:
    """The floor of the module on its own, as the campaign's second target."""
    columns = [workplace.spec.tolerance.rtol_grid.index(rtol) for rtol in grid.rtols]
    floors = [
        {"rtol": rtol, "smallest_atol": finite(float(floor.atol[:, column].max()))}
        for rtol, column in zip(grid.rtols, columns, strict=True)
    ]
    return {**describe_source(floor), "n": len(floor.tier), "floors": floors}
