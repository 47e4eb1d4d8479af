"""Bit flips in outputs of linear layers: of the whole model, or of its first attention module alone.

In each repeat the peers run one part of the list, a fault costing them one forward pass whatever it is, and our engines
the whole of it, as their grouping needs company. Over all repeats every side has run every fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import peer_mrfi
from benchmarks.clock import Side, Timing, taking_turns, timed
from benchmarks.faults import Layer, NeuronFaults, neuron_places
from benchmarks.ours import hows, verdicts
from benchmarks.peer_mrfi import Mrfi
from benchmarks.peer_pytorchfi import PyTorchFI
from benchmarks.setting import PEER_BATCHES, Setting, parts
from benchmarks.verdict import agreement
from testbed.testing import PreparedFaults

PYTORCHFI, MRFI = "pytorchfi", "mrfi"
_SEARCH_FAULTS = 16
_BARE_BATCHES = 4  # per repeat
SILENT = ("dead", "unchanged")  # not run to the end: proven masked, or bit for bit golden on the way


class Peers:
    """PyTorchFI, and MRFI where it is installed, at batch 1 and at the best of `PEER_BATCHES`."""

    def __init__(
        self, setting: Setting, model: nn.Module, inputs: NDArray, layers: Sequence[Layer], faults: NeuronFaults
    ):
        self.setting, self.layers, self.faults = setting, layers, faults
        self.single, self.tokens = PyTorchFI(model, inputs, layers, 1), setting.subject.config.tokens
        self.best_batch, self.searched = self._best_batch(model, inputs)
        self.best = self.single if self.best_batch == 1 else PyTorchFI(model, inputs, layers, self.best_batch)
        self.runs: dict[str, Callable[[NeuronFaults], NDArray[np.int8]]] = {
            f"{PYTORCHFI} batch 1": lambda part: self.single.neurons(part, setting.tolerance),
            f"{PYTORCHFI} best batch": lambda part: self.best.neurons(part, setting.tolerance),
        }
        if peer_mrfi.available():
            for name, batch in (("batch 1", 1), ("best batch", self.best_batch)):
                self.runs[f"{MRFI} {name}"] = self._mrfi(Mrfi(model, inputs, layers, batch))
        self.verdicts = {name: np.full(len(faults), -1, np.int8) for name in self.runs}

    def _mrfi(self, peer: Mrfi) -> Callable[[NeuronFaults], NDArray[np.int8]]:
        return lambda part: peer.neurons(part, self.tokens, self.setting.tolerance)

    def sides(self) -> dict[str, Side]:
        chunks = parts(len(self.faults), self.setting.repeats)

        def side(name: str) -> Side:
            def run(repeat: int) -> int:
                rows = chunks[repeat]
                self.verdicts[name][rows] = self.runs[name](self.faults.take(rows))
                return len(rows)

            return run

        return {name: side(name) for name in self.runs}

    def eager(self) -> dict[str, Side]:
        """Bare PyTorch, no injector: what the peers' forward passes alone would take."""

        def side(peer: PyTorchFI) -> Side:
            def run(_repeat: int) -> int:
                for start in range(0, _SEARCH_FAULTS, peer.batch):
                    peer.forward(peer.injector.original_model, np.arange(start, start + peer.batch) % len(peer.inputs))
                return -(-_SEARCH_FAULTS // peer.batch) * peer.batch

            return run

        return {"pytorch batch 1": side(self.single), "pytorch best batch": side(self.best)}

    def _best_batch(self, model: nn.Module, inputs: NDArray) -> tuple[int, dict[int, float]]:
        found: dict[int, float] = {}
        for batch in PEER_BATCHES:
            peer = PyTorchFI(model, inputs, self.layers, batch)
            some = self.faults.take(slice(0, _SEARCH_FAULTS))

            def run(peer: PyTorchFI = peer, some: NeuronFaults = some) -> int:
                return len(peer.neurons(some, self.setting.tolerance))

            run()
            found[batch] = round(max(timed(run).rate for _ in range(2)), 2)
        return max(found, key=found.__getitem__), found

    def copying_share(self) -> float:
        """Of the time of a fault at batch 1: its declaration, which is mostly the deep copy of the model."""
        some = self.faults.take(slice(0, 8))

        def declared() -> int:
            for row in range(len(some)):
                self.single.declare(some.take(slice(row, row + 1)))
            return len(some)

        whole = timed(lambda: len(self.single.neurons(some, self.setting.tolerance)))
        return timed(declared).cpu_seconds / whole.cpu_seconds


class Runs:
    """Our engines on the whole list, and on its parts that differ in what they cost."""

    def __init__(self, setting: Setting, target: str, layers: Sequence[Layer], faults: NeuronFaults) -> None:
        self.whole = {name: ours.neurons(target, faults, layers) for name, ours in setting.engines.items()}
        self.rows = {name: prepared.rows() for name, prepared in self.whole.items()}
        self.hows = {name: hows(rows) for name, rows in self.rows.items()}
        self.verdicts = {name: verdicts(rows) for name, rows in self.rows.items()}

    def part(self, name: str, kept: Callable[[NDArray], NDArray]) -> PreparedFaults:
        """The faults of an engine whose evaluations ``kept`` says yes to."""
        return self.whole[name].take(np.flatnonzero(kept(self.hows[name])))

    def shares(self, name: str) -> dict[str, float]:
        """Of the faults, by how their output was found."""
        kinds, counts = np.unique(self.hows[name], return_counts=True)
        return {
            str(kind): round(float(count) / len(self.hows[name]), 4) for kind, count in zip(kinds, counts, strict=True)
        }


def side_of(prepared: PreparedFaults) -> Side:
    def run(_repeat: int) -> int:
        return int(prepared.rows().num_rows)

    return run


def bare_side(bare: Callable[[int], int]) -> Side:
    """The engine alone, on whole batches of fault-free images."""

    def run(_repeat: int) -> int:
        return bare(_BARE_BATCHES)

    return run


def measured(setting: Setting, sides: Mapping[str, Side]) -> dict[str, list[Timing]]:
    return taking_turns(sides, setting.repeats, setting.told)


def agreements(setting: Setting, peers: Peers, runs: Runs) -> dict[str, Any]:
    """Every engine of ours, and the other ways to run the peers, against PyTorchFI at batch 1; each disagreement with both
    sides' distance from golden, and where there are classes the gap between the two best probabilities."""
    single = f"{PYTORCHFI} batch 1"
    theirs = peers.verdicts[single]
    found = {
        name: agreement(runs.verdicts[name], theirs, partial(_told, peers, runs, name)) for name in setting.engines
    }
    others = {
        f"{name} (with {single})": float((verdict == theirs).mean())
        for name, verdict in peers.verdicts.items()
        if name != single
    }
    return found | {"peers": others}


def _told(peers: Peers, runs: Runs, name: str, row: int) -> dict[str, Any]:
    fault = peers.faults.take(slice(row, row + 1))
    (site,), (index,) = neuron_places(fault, peers.layers, peers.setting.subject.config)
    return {
        "site": site,
        "index": int(index),
        "bit": int(fault.bit[0]),
        "image": int(fault.image[0]),
        **ours_told(runs.rows[name].slice(row, 1).to_pylist()[0]),
        **theirs_told(torch.from_numpy(peers.single.outputs(fault)), peers.single.golden[fault.image]),
    }


def theirs_told(output: torch.Tensor, golden: torch.Tensor) -> dict[str, Any]:
    """The same of one output of theirs (1, ...)."""
    return {
        "theirs_nonfinite": not bool(output.isfinite().all()),
        "theirs_max_abs_diff": finite(float((output - golden).abs().max())),
        "theirs_margin": finite(_margin(output)) if output.dim() == 2 else None,
    }


def ours_told(row: dict[str, Any]) -> dict[str, Any]:
    """What a result row of ours says of a disagreement."""
    return {
        "faulty_value": finite(row["faulty_value"]),
        "ours_nonfinite": row["nonfinite"],
        "ours_max_abs_diff": finite(row["max_abs_diff"]),
        "ours_margin": None if row["margin_faulty"] is None else finite(row["margin_faulty"]),
    }


def _margin(logits: torch.Tensor) -> float:
    """Between the two best probabilities of (1, K) logits."""
    best = logits.double().softmax(1).topk(2).values[0]
    return float(best[0] - best[1])


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
