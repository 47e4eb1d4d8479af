"""Bit flips in weights of linear layers: each fault over the same images; an injection is one image under one fault.

PyTorchFI declares a fault once for all images, so that the model is copied once; a side of its own shows what a
declaration for each image costs. The ceiling is that of the engine whose weights can be changed, which packs none of them;
the engine as deployed is told beside it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.clock import Side, ratio, table
from benchmarks.faults import linear_layers, weight_faults, weight_places
from benchmarks.neuron import PYTORCHFI, bare_side, measured, ours_told, side_of, theirs_told
from benchmarks.ours import verdicts
from benchmarks.peer_pytorchfi import PyTorchFI
from benchmarks.setting import Setting, faster, parts
from benchmarks.verdict import agreement
from benchmarks.work import weight_shares_left

PER_IMAGE = f"{PYTORCHFI} batch 1, declared per image"


def run(setting: Setting, peer_best_batch: int) -> dict[str, Any]:
    layers, images = linear_layers(setting.subject.config), setting.subject.images
    faults = weight_faults(layers, setting.faults["weight"], setting.seed)
    inputs = setting.first.inputs("model")
    peers = {
        f"{PYTORCHFI} {name}": PyTorchFI(setting.subject.model, inputs, layers, batch)
        for name, batch in (("batch 1", 1), ("best batch", min(peer_best_batch, images)))
    }
    prepared = {name: ours.weights(faults, layers) for name, ours in setting.engines.items()}
    rows = {name: mine.rows() for name, mine in prepared.items()}
    theirs = {name: np.full((len(faults), images), -1, np.int8) for name in peers}
    chunks = parts(len(faults), setting.repeats)

    def peer_side(name: str) -> Side:
        def side(repeat: int) -> int:
            theirs[name][chunks[repeat]] = peers[name].weights(faults.take(chunks[repeat]), setting.tolerance)
            return len(chunks[repeat]) * images

        return side

    def declared_per_image(repeat: int) -> int:
        some = faults.take(chunks[repeat])
        return peers[f"{PYTORCHFI} batch 1"].weights(some, setting.tolerance, declared_per_batch=True).size

    sides: dict[str, Side] = {name: peer_side(name) for name in peers}
    sides[PER_IMAGE] = declared_per_image
    for name, mine in prepared.items():
        sides[f"ours {name}"] = side_of(mine)
        sides[f"bare engine {name}"] = bare_side(setting.engines[name].bare("model"))
        sides[f"bare engine with weights to change {name}"] = bare_side(setting.engines[name].bare("model", "weight"))
    timings = measured(setting, sides)
    sites, index = weight_places(faults, layers)
    one = peers[f"{PYTORCHFI} batch 1"]

    def told(name: str, row: int) -> dict[str, Any]:
        fault, image = divmod(row, images)
        mine = rows[name].slice(row, 1).to_pylist()[0]
        return {
            "site": sites[fault],
            "index": int(index[fault]),
            "bit": int(faults.bit[fault]),
            "image": image,
            **ours_told(mine),
            **theirs_told(one.weight_output(faults, fault, image), one.golden[[image]]),
        }

    best = faster(timings, "ours", setting.engines)
    single = theirs[f"{PYTORCHFI} batch 1"].reshape(-1)
    ratios = {
        name: {
            "batch1": ratio(timings[f"ours {name}"], timings[f"{PYTORCHFI} batch 1"]).record(),
            "best_batch": ratio(timings[f"ours {name}"], timings[f"{PYTORCHFI} best batch"]).record(),
            "declared_per_image": ratio(timings[f"ours {name}"], timings[PER_IMAGE]).record(),
        }
        for name in prepared
    }
    left = float(weight_shares_left(setting.subject.config, layers, faults).mean())
    ceiling: dict[str, dict[str, Any]] = {
        name: {
            "work_left": left,
            "as_deployed": ratio(timings[f"ours {name}"], timings[f"bare engine {name}"], scale=left).record(),
            "weights_to_change": ratio(
                timings[f"ours {name}"], timings[f"bare engine with weights to change {name}"], scale=left
            ).record(),
        }
        for name in prepared
    }
    return {
        "engine": best,
        "ceiling_share": ceiling[best]["weights_to_change"]["median"],
        "ceiling_share_as_deployed": ceiling[best]["as_deployed"]["median"],
        "ceiling": ceiling,
        "ratio": ratios[best]["batch1"]["median"],
        "ratio_best_batch": ratios[best]["best_batch"]["median"],
        "ratio_declared_per_image": ratios[best]["declared_per_image"]["median"],
        "ratios": ratios,
        "faults": len(faults),
        "images_per_fault": images,
        "peer_best_batch": peers[f"{PYTORCHFI} best batch"].batch,
        "agreement": {name: agreement(verdicts(mine), single, partial(told, name)) for name, mine in rows.items()},
        "sides": table(timings),
    }
