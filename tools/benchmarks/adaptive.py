"""The SDC-1 rate of every block to within a margin: by an adaptive campaign of ours, and what other designs would need."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults import Layer
from benchmarks.ours import Ours
from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.simulation import SimulatedTruth, play
from testbed.analysis.stats import leveugle
from testbed.analysis.stratified import SamplingFrame
from testbed.testing import FP32

LINEAR_SITES = [f"block.*.{name}" for name in ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")]
_SIMULATED = 40  # uniform campaigns whose mean size is taken


def spec_of(margin: float, confidence: float) -> dict[str, Any]:
    """The parts of a campaign's spec that are special here: flips in linear outputs, until every block is known."""
    return {
        "faults": [{"target": "model", "where": "activation", "sites": LINEAR_SITES, "ops": ["flip"]}],
        "stop": {"margin": margin, "confidence": confidence, "per": "block"},
    }


@dataclass(frozen=True)
class Adaptive:
    """What an adaptive campaign found and took. rate, low, high, n: (blocks,); seconds: of the whole process."""

    rate: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: NDArray[np.int64]
    met: bool
    rounds: int
    cpu_seconds: float
    wall_seconds: float
    engine_seconds: float


def run(ours: Ours) -> Adaptive:
    """Plans and runs the campaign to its end in this process, engines opened anew; all of it is timed."""
    wall, cpu = time.perf_counter(), time.process_time()
    facts = ours.campaign.run()
    seconds = time.process_time() - cpu, time.perf_counter() - wall
    domains = sorted(facts["stop"]["history"][-1]["domains"], key=lambda domain: domain["block"])
    rate, low, high = (np.array([domain[name] for domain in domains]) for name in ("rate", "low", "high"))
    n = np.array([domain["faults"] for domain in domains])
    return Adaptive(
        rate, low, high, n, facts["stop"]["met"], facts["stop"]["rounds"], *seconds, facts["engine_seconds"]
    )


def populations(layers: Sequence[Layer], tokens: int, images: int) -> NDArray[np.int64]:
    """(blocks,) single bit flips of linear outputs: element, bit and image."""
    blocks = np.array([layer.block for layer in layers])
    faults = np.array([layer.outputs for layer in layers]) * tokens * images * FP32.bits
    return np.array([faults[blocks == block].sum() for block in np.unique(blocks)])


def leveugle_sizes(population: NDArray[np.int64], rule: StopRule) -> NDArray[np.int64]:
    """(blocks,) faults, p = 0.5 as nothing is known."""
    return np.array([leveugle(int(size), rule.margin, rule.confidence) for size in population])


def uniform_sizes(
    population: NDArray[np.int64], rate: NDArray[np.float64], rule: StopRule, seed: int
) -> NDArray[np.float64]:
    """(blocks,) mean faults of simulated campaigns that draw uniformly within a block, with the same looks and stop."""
    frame = SamplingFrame.of(population, np.arange(len(population)))
    return play(SimulatedTruth.of(frame, rate), rule, _SIMULATED, seed).per_domain.mean(0)
