"""Neuron faults of the whole model, with the ceiling that the work left by each fault sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.clock import ratio, spread, table
from benchmarks.faults import linear_layers, neuron_faults
from benchmarks.neuron import PYTORCHFI, SILENT, Peers, Runs, agreements, bare_side, measured, side_of
from benchmarks.setting import Setting, faster
from benchmarks.work import shares_left


def run(setting: Setting) -> dict[str, Any]:
    config = setting.subject.config
    layers = linear_layers(config)
    faults = neuron_faults(layers, config.tokens, setting.subject.images, setting.faults["neuron"], setting.seed)
    peers = Peers(setting, setting.subject.model, setting.first.inputs("model"), layers, faults)
    runs = Runs(setting, "model", layers, faults)
    left = shares_left(config, layers, faults)
    dead = left == 0
    sides = peers.sides() | peers.eager()
    for name, ours in setting.engines.items():
        sides[f"ours {name}"] = side_of(runs.whole[name])
        sides[f"ours, no dead site {name}"] = side_of(runs.whole[name].take(np.flatnonzero(~dead)))
        sides[f"ours, run to the end {name}"] = side_of(runs.part(name, lambda how: ~np.isin(how, SILENT)))
        sides[f"bare engine {name}"] = bare_side(ours.bare("model"))
    timings = measured(setting, sides)

    def ceilings(name: str) -> dict[str, Any]:
        """Of three lists: the engine's bare rate over the mean share of the model that a fault leaves to compute."""
        bare = timings[f"bare engine {name}"]
        ran = ~np.isin(runs.hows[name], SILENT)
        lists = {"": np.ones_like(dead), ", no dead site": ~dead, ", run to the end": ran}
        found = {}
        for told, mine in lists.items():
            share = ratio(timings[f"ours{told} {name}"], bare, scale=float(left[mine].mean()))
            found[told.removeprefix(", ") or "all"] = {"work_left": float(left[mine].mean())} | share.record()
        return found

    best = faster(timings, "ours", setting.engines)
    against = {name: f"{PYTORCHFI} {name}" for name in ("batch 1", "best batch")}
    ratios = {
        name: {
            told: ratio(timings[f"{side} {name}"], timings[theirs])
            for told, side, theirs in (
                ("batch1", "ours", against["batch 1"]),
                ("best_batch", "ours", against["best batch"]),
                ("batch1_no_dead_site", "ours, no dead site", against["batch 1"]),
                ("best_batch_no_dead_site", "ours, no dead site", against["best batch"]),
            )
        }
        for name in setting.engines
    }
    ceiling = {name: ceilings(name) for name in setting.engines}
    return {
        "engine": best,
        **{f"ratio_{told}": value.median for told, value in ratios[best].items()},
        "ceiling_share": ceiling[best]["run to the end"]["median"],
        "ceiling": ceiling,
        "ratios": {name: {told: value.record() for told, value in mine.items()} for name, mine in ratios.items()},
        "faults": len(faults),
        "dead_site_share": float(dead.mean()),
        "evaluations": {name: runs.shares(name) for name in setting.engines},
        "batch": {name: ours.batch for name, ours in setting.engines.items()},
        "peer_batches": peers.searched,
        "peer_best_batch": peers.best_batch,
        "peer_declaration_share": peers.copying_share(),
        "agreement": agreements(setting, peers, runs),
        "peer_mean_rate": spread([t.rate for t in timings[against["batch 1"]]]).record(),
        "sides": table(timings),
    }
