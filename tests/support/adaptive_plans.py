"""An adaptive campaign of a population that is known exhaustively: its spec, its sites, what fails, its rounds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from testbed.analysis.stratified import StratumTally
from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.site import Site, SiteTable

TABLE = SiteTable(
    "model",
    "id",
    "gated_replace",
    (
        Site("embed", "activation", (40,)),
        *(Site(f"block.{b}.mlp.{name}", "activation", (5, 16)) for b in (0, 1) for name in ("fc1", "fc2")),
        *(Site(f"block.{b}.mlp.fc1.weight", "weight", (16, 16)) for b in (0, 1)),
    ),
)
TABLES = {"model": TABLE}
TIERS = [[f"low {n}" for n in range(6)], [f"high {n}" for n in range(4)]]
IMAGES = [image for tier in TIERS for image in tier]
SPEC: dict[str, Any] = {
    "name": "adaptive",
    "seed": 5,
    "model": {"preset": "digits", "recipe": "digits"},
    "data": {"name": "digits"},
    "tiers": {"edges": [0.5, 1.0], "images": [6, 4]},
    "stop": {"margin": 0.05, "per": "block"},
    "faults": [
        {"target": "model", "where": "activation", "sites": ["block.*"], "ops": ["flip"]},
        {"target": "model", "where": "weight", "ops": ["flip"], "bits": [0, 30, 31], "images": "all"},
    ],
}


def spec_with(**stop: Any) -> CampaignSpec:
    values = copy.deepcopy(SPEC)
    values["stop"] |= stop
    return parse_spec(values)


def planner(spec: CampaignSpec | None = None) -> AdaptivePlanner:
    return AdaptivePlanner(spec or parse_spec(SPEC), TABLES, TIERS)


def fails(site: str, bit: int, index: int, image: str) -> bool:
    """A population that is known exhaustively: upper bits fail often in block 0, sometimes in block 1."""
    chance = {31: 0.2, 30: 0.8}.get(bit, 0.02 if bit > 23 else 0.0) * (0.3 if site.startswith("block.1") else 1)
    place = index * 7919 + IMAGES.index(image) * 104729 + bit * 1299709 + len(site) * 15485863
    return place * 2654435761 % 2**32 / 2**32 < chance


def ran(plan: pa.Table) -> pa.Table:
    """Rows of a plan: persistent faults are run on the images drawn for them, or on all."""
    rows = []
    for fault in plan.select(["fault_id", "site", "bit", "index", "image_id", "image_ids"]).to_pylist():
        for image in [fault["image_id"]] if fault["image_id"] else fault["image_ids"] or IMAGES:
            failed = fails(fault["site"], fault["bit"], fault["index"], image)
            rows.append((fault["fault_id"], "sdc1" if failed else "masked"))
    ids, outcomes = zip(*rows, strict=True)
    return pa.table({"fault_id": ids, "outcome": pa.array(outcomes).dictionary_encode()})


def table_of(parts: Any) -> pa.Table:
    return pa.concat_tables([part.faults for part in parts]).unify_dictionaries().combine_chunks()


def campaign(
    adaptive: AdaptivePlanner, look: Callable[[pa.Table], None] = lambda plan: None
) -> tuple[list[StratumTally], list[pa.Table]]:
    """Counts and plans of all rounds of a campaign, run to its end."""
    counts: list[StratumTally] = []
    plans: list[pa.Table] = []
    while (parts := adaptive.round(len(counts), counts)) is not None:
        plans.append(table_of(parts))
        look(plans[-1])
        counts.append(adaptive.counts_of(plans[-1], [ran(plans[-1])]))
    return counts, plans
