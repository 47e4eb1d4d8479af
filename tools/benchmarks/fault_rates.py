"""How fast faults are run: by PyTorchFI, by our engines, and by the faster of ours in each block."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.clock import Side, rates, ratio, spread, table
from benchmarks.faults import Layer, linear_layers, neuron_faults, weight_faults
from benchmarks.neuron import PYTORCHFI, Peers, Runs, measured, side_of
from benchmarks.peer_pytorchfi import PyTorchFI
from benchmarks.setting import Setting, faster, parts

_PEER_BATCH = 16


def of_neurons(setting: Setting, layers: list[Layer]) -> dict[str, Any]:
    """PyTorchFI's rates, ours over its best batch, and our CPU-seconds per uniformly drawn fault of each block."""
    config = setting.subject.config
    faults = neuron_faults(layers, config.tokens, setting.subject.images, setting.faults["neuron"], setting.seed)
    peers = Peers(setting, setting.subject.model, setting.first.inputs("model"), layers, faults)
    runs = Runs(setting, "model", layers, faults)
    theirs = {name: side for name, side in peers.sides().items() if name.startswith(PYTORCHFI)}
    timings = measured(setting, theirs | {f"ours {name}": side_of(one) for name, one in runs.whole.items()})
    best = faster(timings, "ours", setting.engines)
    return {
        "engine": best,
        "ratio_engine": ratio(timings[f"ours {best}"], timings[f"{PYTORCHFI} best batch"]),
        "pytorchfi_best_batch": spread(rates(timings[f"{PYTORCHFI} best batch"])).median,
        "pytorchfi_batch_1": spread(rates(timings[f"{PYTORCHFI} batch 1"])).median,
        "seconds_per_fault": seconds_per_fault(setting, best, layers),
        "raw": table(timings),
    }


def of_weights(setting: Setting, layers: list[Layer]) -> dict[str, Any]:
    """The same of weight faults that are run on all images: rates in rows, our time per fault."""
    images, count = setting.subject.images, setting.faults["weight"]
    faults = weight_faults(layers, count, setting.seed)
    inputs = setting.first.inputs("model")
    peers = {
        f"{PYTORCHFI} {name}": PyTorchFI(setting.subject.model, inputs, layers, batch)
        for name, batch in (("batch 1", 1), ("best batch", min(_PEER_BATCH, images)))
    }
    chunks = parts(count, setting.repeats)

    def side(peer: PyTorchFI) -> Side:
        def run(repeat: int) -> int:
            peer.weights(faults.take(chunks[repeat]), setting.tolerance)
            return len(chunks[repeat]) * images

        return run

    sides: dict[str, Side] = {name: side(peer) for name, peer in peers.items()}
    sides |= {f"ours {name}": side_of(one.weights(faults, layers)) for name, one in setting.engines.items()}
    timings = measured(setting, sides)
    best = faster(timings, "ours", setting.engines)
    blocks: dict[str, Side] = {}
    for block in sorted({layer.block for layer in layers}):
        own = linear_layers(setting.subject.config, [block])
        some = weight_faults(own, max(1, count // 5), setting.seed + 1)
        blocks[f"block {block}"] = side_of(setting.engines[best].weights(some, own))
    per_row = [1 / spread(rates(mine)).median for mine in measured(setting, blocks).values()]
    return {
        "engine": best,
        "ratio_engine": ratio(timings[f"ours {best}"], timings[f"{PYTORCHFI} best batch"]),
        "pytorchfi_best_batch": spread(rates(timings[f"{PYTORCHFI} best batch"])).median,
        "pytorchfi_batch_1": spread(rates(timings[f"{PYTORCHFI} batch 1"])).median,
        "seconds_per_fault": np.array(per_row) * images,
        "raw": table(timings),
    }


def seconds_per_fault(setting: Setting, engine: str, layers: list[Layer]) -> np.ndarray:
    """(blocks,) CPU-seconds of our engine for a fault that is drawn uniformly from a block: of as many as fill batches."""
    config, images = setting.subject.config, setting.subject.images
    count, sides = setting.faults["block"], {}
    for block in sorted({layer.block for layer in layers}):
        own = linear_layers(config, [block])
        faults = neuron_faults(own, config.tokens, images, count, setting.seed + 1)
        sides[f"block {block}"] = side_of(setting.engines[engine].neurons("model", faults, own))
    timings = measured(setting, sides)
    return np.array([1 / spread(rates(mine)).median for mine in timings.values()])
