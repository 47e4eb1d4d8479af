"""MRFI 2.1, as fast as its interface goes: its own fixed positions and float bit flips, one fault per batch element.

What a fault costs there, and is timed: setting positions and bits in the configuration tree, the forward pass with its
hooks, and the judgement. Its model is set up once; it makes no copy per fault.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.faults import Layer, NeuronFaults
from benchmarks.peer_pytorchfi import batches
from benchmarks.verdict import Tolerance, judged

MISSING = "MRFI is not installed: pip install 'testbed[bench]', or pip install --no-deps mrfi"


def available() -> bool:
    return find_spec("mrfi") is not None


class Mrfi:
    """One injector for one batch size."""

    def __init__(self, model: nn.Module, inputs: NDArray[np.float32], layers: Sequence[Layer], batch: int) -> None:
        logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
        from mrfi import MRFI, EasyConfig

        self.batch, self.inputs = batch, torch.from_numpy(inputs)
        self.outputs_per_token = np.array([layer.outputs for layer in layers])
        config = {
            "type": "activation_out",
            "enabled": False,
            "selector": {"method": "FixPositions", "positions": []},
            "error_mode": {"method": "FloatFixedBitFlip", "bit": [], "floattype": "float32"},
            "module_fullname": [layer.module for layer in layers],
        }
        own = copy.deepcopy(model)  # it hangs hooks and configurations on the model it is given
        self.model = MRFI(own, EasyConfig({"faultinject": [config]}))
        modules = dict(own.named_modules())
        self.config = [modules[layer.module].FI_config.activation_out[0] for layer in layers]
        self.golden = torch.cat([self._forward(rows) for rows in batches(len(inputs), batch)])

    def _forward(self, rows: NDArray[np.int64]) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(self.inputs[rows])

    def neurons(self, faults: NeuronFaults, tokens: int, tolerance: Tolerance) -> NDArray[np.int8]:
        """(n,) verdicts."""
        found = []
        for rows in batches(len(faults), self.batch):
            part = faults.take(rows)
            faulty = self._arm(part, tokens)
            found.append(judged(self._forward(part.image), self.golden[part.image], tolerance))
            for layer in faulty:
                self.config[layer].enabled = False
        return np.concatenate(found)

    def _arm(self, part: NeuronFaults, tokens: int) -> list[int]:
        """Enables the struck layers and returns them."""
        width = self.outputs_per_token[part.layer]
        position = (np.arange(len(part)) * tokens + part.token) * width + part.feature
        faulty = np.unique(part.layer).tolist()
        for layer in faulty:
            mine = part.layer == layer
            config = self.config[layer]
            config.selector.args.positions = position[mine].tolist()
            config.error_mode.args.bit = part.bit[mine].tolist()
            config.enabled = True
        return faulty
