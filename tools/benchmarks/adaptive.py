"""The SDC-1 rate of every block to within a margin: by an adaptive campaign of ours, and what other designs would need."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.faults import Layer
from benchmarks.ours import LINEAR_WEIGHTS, Ours
from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.simulation import ClusteredTruth, SimulatedTruth, Truth, play
from testbed.analysis.stats import leveugle
from testbed.analysis.stratified import SamplingFrame
from testbed.testing import FP32

LINEAR_SITES = [f"block.*.{name}" for name in ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")]
_SIMULATED = 40  # uniform campaigns whose mean size is taken


def spec_of(
    margin: float | None,
    confidence: float,
    relative: float | None = None,
    where: str = "activation",
    all_images: bool = False,
) -> dict[str, Any]:
    """The parts of a campaign's spec that are special here: flips in outputs, or weights, of linear layers, until every block
    is known. What `relative` chooses by itself is left to it, unless weight faults are to be run on ``all_images``."""
    sites = LINEAR_SITES if where == "activation" else LINEAR_WEIGHTS
    stop: dict[str, Any] = {"confidence": confidence, "per": "block"}
    stop |= {} if margin is None else {"margin": margin}
    section = {"target": "model", "where": where, "sites": sites, "ops": ["flip"]}
    return {
        "faults": [section | {"images": "all"} if all_images else section],
        "stop": stop if relative is None else stop | {"relative": relative},
    }


@dataclass(frozen=True)
class Adaptive:
    """What an adaptive campaign found and took. rate, low, high, n: (blocks,); rows: of all; correlation: (blocks,) between the
    images of one weight fault; seconds: of the whole process."""

    rate: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: NDArray[np.int64]
    rows: int
    correlation: NDArray[np.float64]
    met: bool
    rounds: int
    cpu_seconds: float
    wall_seconds: float
    engine_seconds: float


def run(ours: Ours, folder: Path) -> Adaptive:
    """Plans and runs the campaign to its end in this process, engines opened anew; all of it is timed."""
    wall, cpu = time.perf_counter(), time.process_time()
    facts = ours.campaign.run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    pilot = stages.get("images", {}).get("seconds", 0.0)  # is of the design: no other one has it
    domains = sorted(facts["stop"]["history"][-1]["domains"], key=lambda domain: domain["block"])
    rate, low, high = (np.array([domain[name] for domain in domains]) for name in ("rate", "low", "high"))
    n = np.array([domain["faults"] for domain in domains])
    return Adaptive(
        rate,
        low,
        high,
        n,
        facts["rows"],
        correlation(folder / "results.parquet", pilot_correlation(stages)),
        facts["stop"]["met"],
        facts["stop"]["rounds"],
        cpu + pilot,
        wall + pilot,
        facts["engine_seconds"],
    )


def pilot_correlation(stages: dict[str, Any]) -> float:
    """Of the images of a weight fault, as the pilot found it; 0 where there was none, or it saw too few events."""
    chosen = stages.get("images", {}).get("facts", {}).get("chosen", [])
    return next((choice["correlation"] or 0.0 for choice in chosen if choice["where"] == "weight"), 0.0)


def correlation(results: Path, otherwise: float = 0.0) -> NDArray[np.float64]:
    """(blocks,) intra-class correlation of SDC-1 among the images of a fault, faults weighed: from pairs of images, which a
    sample of a fault's images tells without bias. ``otherwise`` where no fault has two."""
    rows = pq.read_table(results, columns=["fault_id", "block", "outcome", "weight"]).to_pandas()
    rows["event"] = (rows.outcome.astype(str) == "sdc1").astype(float)
    faults = rows.groupby("fault_id").agg(
        block=("block", "first"), m=("event", "size"), k=("event", "sum"), weight=("weight", "sum")
    )
    several = faults[faults.m > 1]
    told = []
    for block in sorted(faults.block.unique()):
        own, pairs = faults[faults.block == block], several[several.block == block]
        p = float(np.average(own.k / own.m, weights=own.weight))
        if not len(pairs) or not 0 < p < 1:
            told.append(0.0 if len(pairs) else otherwise)
            continue
        both = float(np.average(pairs.k * (pairs.k - 1) / (pairs.m * (pairs.m - 1)), weights=pairs.weight))
        told.append(float(np.clip((both - p * p) / (p * (1 - p)), 0, 1)))
    return np.array(told)


def populations(layers: Sequence[Layer], tokens: int, images: int, where: str = "activation") -> NDArray[np.int64]:
    """(blocks,) single bit flips of linear outputs: element, bit and image; or of weights: element and bit."""
    blocks = np.array([layer.block for layer in layers])
    each = [layer.outputs * (tokens * images if where == "activation" else layer.inputs) for layer in layers]
    faults = np.array(each) * FP32.bits
    return np.array([faults[blocks == block].sum() for block in np.unique(blocks)])


def leveugle_sizes(
    population: NDArray[np.int64], rule: StopRule, rate: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """(blocks,) faults: p = 0.5 as nothing is known; of a relative margin, those that it takes at the ``rate`` that is known
    afterwards."""
    if not rule.relative or rate is None:
        return np.array([leveugle(int(size), rule.margin, rule.confidence) for size in population])
    margins = rule.margin_at(rate)
    return np.array(
        [
            leveugle(int(size), float(margin), rule.confidence, float(np.clip(p, 1e-6, 1 - 1e-6)))
            for size, margin, p in zip(population, margins, rate, strict=True)
        ]
    )


def uniform_sizes(
    population: NDArray[np.int64], rate: NDArray[np.float64], rule: StopRule, seed: int
) -> NDArray[np.float64]:
    """(blocks,) mean faults of simulated campaigns that draw uniformly within a block, with the same looks and stop."""
    frame = SamplingFrame.of(population, np.arange(len(population)))
    return _played(SimulatedTruth.of(frame, rate), rule, seed)


def uniform_weight_sizes(
    population: NDArray[np.int64],
    rate: NDArray[np.float64],
    together: NDArray[np.float64],
    images: int,
    rule: StopRule,
    seed: int,
) -> NDArray[np.float64]:
    """(blocks,) the same of weight faults that are each run on all images, which fail ``together`` with this correlation."""
    sizes = []
    for size, p, rho in zip(population, rate, together, strict=True):
        frame = SamplingFrame.of([size], [0])
        correlated = min(max(float(rho), 1e-6), 1 - 1e-6)
        sizes.append(_played(ClusteredTruth.of(frame, [p], images, correlated), rule, seed)[0])
    return np.array(sizes)


def _played(truth: Truth, rule: StopRule, seed: int) -> NDArray[np.float64]:
    endless = replace(rule, max_faults=math.inf)
    return play(truth, endless, _SIMULATED, seed).per_domain.mean(0)
