"""The first attention module alone: faults that are evaluated incrementally, and all others."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.clock import ratio, table
from benchmarks.faults import linear_layers, neuron_faults
from benchmarks.neuron import PYTORCHFI, Peers, Runs, agreements, measured, side_of
from benchmarks.setting import Setting, faster
from testbed.models.subnetwork import part_named, subnetwork

INCREMENTAL = "incremental"


def run(setting: Setting) -> dict[str, Any]:
    config, model = setting.subject.config, setting.subject.model
    layers = linear_layers(config, [part_named(model, "attention").block], attention_only=True)
    faults = neuron_faults(layers, config.tokens, setting.subject.images, setting.faults["attention"], setting.seed)
    module = subnetwork(model, "attention")
    peers = Peers(setting, module, setting.first.inputs("attention"), layers, faults)
    runs = Runs(setting, "attention", layers, faults)
    classes = {
        "incremental": lambda how: how == INCREMENTAL,
        "exact": lambda how: how != INCREMENTAL,
    }
    sides = dict(peers.sides())
    for name in setting.engines:
        sides[f"ours {name}"] = side_of(runs.whole[name])
        for told, kept in classes.items():
            if len(prepared := runs.part(name, kept)):
                sides[f"ours, {told} {name}"] = side_of(prepared)
    timings = measured(setting, sides)
    best = faster(timings, "ours", setting.engines)
    theirs = timings[f"{PYTORCHFI} best batch"]

    def against_best(name: str, told: str) -> dict[str, float] | None:
        """None where no fault of the list was evaluated in this way."""
        mine = timings.get(f"ours{told} {name}")
        return None if mine is None else ratio(mine, theirs).record()

    ratios = {
        name: {
            "all": against_best(name, ""),
            "incremental": against_best(name, ", incremental"),
            "exact": against_best(name, ", exact"),
        }
        for name in setting.engines
    }
    chosen = ratios[best]
    return {
        "engine": best,
        "incremental_ratio_best_batch": chosen["incremental"] and chosen["incremental"]["median"],
        "exact_ratio_best_batch": chosen["exact"] and chosen["exact"]["median"],
        "ratio_best_batch": chosen["all"] and chosen["all"]["median"],
        "ratios": ratios,
        "faults": len(faults),
        "evaluations": {name: runs.shares(name) for name in setting.engines},
        "exact_faults": {name: int(np.sum(runs.hows[name] != INCREMENTAL)) for name in setting.engines},
        "peer_batches": peers.searched,
        "peer_best_batch": peers.best_batch,
        "agreement": agreements(setting, peers, runs),
        "sides": table(timings),
    }
