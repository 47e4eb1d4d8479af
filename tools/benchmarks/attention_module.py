"""The first attention module alone, by how far a fault's effect reaches.

low_rank       v and k: the golden output and a change of low rank, to within a bound
row_confined   q and the projection's output: one token's row, exactly
incremental    both of these: only the change is evaluated
exact          all others: v and k whose result was too near a decision or not finite, evaluated in full
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.clock import ratio, table
from benchmarks.faults import Layer, NeuronFaults, linear_layers, neuron_faults, neuron_places
from benchmarks.neuron import PYTORCHFI, Peers, Runs, agreements, measured, side_of
from benchmarks.setting import Setting, faster
from testbed.testing import ViTConfig

LOW_RANK, ROW, SAME = "incremental", "rows", "unchanged"  # names of `How`
_ONE_ROW = ("q", "proj")


def run(setting: Setting) -> dict[str, Any]:
    config, reference = setting.subject.config, setting.subject.reference
    layers = linear_layers(config, [reference.block_of("attention")], attention_only=True)
    faults = neuron_faults(layers, config.tokens, setting.subject.images, setting.faults["attention"], setting.seed)
    module = reference.part("attention")
    peers = Peers(setting, module, setting.first.inputs("attention"), layers, faults)
    runs = Runs(setting, "attention", layers, faults)
    classes = {name: reaches(faults, layers, config, runs.hows[name]) for name in setting.engines}
    sides = peers.sides() | peers.eager()
    for name in setting.engines:
        sides[f"ours {name}"] = side_of(runs.whole[name])
        for reach, mine in classes[name].items():
            if mine.any():
                sides[f"ours, {reach} {name}"] = side_of(runs.whole[name].take(np.flatnonzero(mine)))
    timings = measured(setting, sides)
    best = faster(timings, "ours", setting.engines)
    theirs = timings[f"{PYTORCHFI} best batch"]

    def against_best(name: str, reach: str) -> dict[str, float] | None:
        """None where no fault of the list is of this class."""
        mine = timings.get(f"ours{reach} {name}")
        return None if mine is None else ratio(mine, theirs).record()

    ratios = {
        name: {"all": against_best(name, "")} | {reach: against_best(name, f", {reach}") for reach in classes[name]}
        for name in setting.engines
    }
    medians = {reach: one and one["median"] for reach, one in ratios[best].items()}
    return {
        "engine": best,
        "incremental_ratio_best_batch": medians["incremental"],
        "exact_ratio_best_batch": medians["exact"],
        "low_rank_ratio_best_batch": medians["low_rank"],
        "row_confined_ratio_best_batch": medians["row_confined"],
        "ratio_best_batch": medians["all"],
        "ratios": ratios,
        "faults": len(faults),
        "classes": {name: {reach: int(mine.sum()) for reach, mine in one.items()} for name, one in classes.items()},
        "evaluations": {name: runs.shares(name) for name in setting.engines},
        "peer_batches": peers.searched,
        "peer_best_batch": peers.best_batch,
        "agreement": agreements(setting, peers, runs),
        "sides": table(timings),
    }


def reaches(
    faults: NeuronFaults, layers: list[Layer], config: ViTConfig, how: NDArray[np.object_]
) -> dict[str, NDArray[np.bool_]]:
    """Class -> (n,) which faults are in it."""
    sites, _ = neuron_places(faults, layers, config)
    one_row = np.array([site.rsplit(".", 1)[-1] in _ONE_ROW for site in sites]) & np.isin(how, (ROW, SAME))
    low_rank = how == LOW_RANK
    return {
        "incremental": low_rank | one_row,
        "low_rank": low_rank,
        "row_confined": one_row,
        "exact": ~(low_rank | one_row),
    }
