"""PyTorchFI 0.6.0, as fast as its interface goes: one fault per batch element, an IEEE bit flip as custom function.

What a fault costs there, and is timed: ``declare_neuron_fi`` or ``declare_weight_fi``, which deep-copies the model at
each call (one call per batch of neuron faults, one per weight fault), the forward pass of that copy, and the judgement:
top-1 against the golden's and ``isclose``. Its golden outputs are computed once, before the clock runs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.faults import Layer, NeuronFaults, WeightFaults
from benchmarks.verdict import Tolerance, judged
from testbed import TestbedError

MISSING = "PyTorchFI is not installed: pip install 'testbed[bench]', or pip install --no-deps pytorchfi==0.6.0"


def available() -> bool:
    return find_spec("pytorchfi") is not None


class PyTorchFI:
    """One injector for one batch size. ``model`` takes (B, *shape) and has ``layers`` among its linear ones."""

    def __init__(self, model: nn.Module, inputs: NDArray[np.float32], layers: Sequence[Layer], batch: int) -> None:
        if not available():
            raise TestbedError(MISSING)
        self.batch, self.inputs = batch, torch.from_numpy(inputs)
        self.injector = _injector(model, batch, list(inputs.shape[1:]))
        order = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        self.number = np.array([order.index(layer.module) for layer in layers])  # its numbering: declaration order
        self.golden = torch.cat([self.forward(model, rows) for rows in batches(len(inputs), batch)])

    def forward(self, model: nn.Module, rows: NDArray[np.int64]) -> Tensor:
        with torch.inference_mode():
            return model(self.inputs[rows])

    def neurons(self, faults: NeuronFaults, tolerance: Tolerance) -> NDArray[np.int8]:
        """(n,) verdicts of `benchmarks.verdict`."""
        found = []
        for rows in batches(len(faults), self.batch):
            part = faults.take(rows)
            faulty = self.declare(part)
            found.append(judged(self.forward(faulty, part.image), self.golden[part.image], tolerance))
        return np.concatenate(found)

    def declare(self, part: NeuronFaults) -> nn.Module:
        """A model with one fault per batch element."""
        self.injector.bits = part.bit.tolist()
        n = len(part)
        return self.injector.declare_neuron_fi(
            function=self.injector.flip_across_batch,
            batch=list(range(n)),
            layer_num=self.number[part.layer].tolist(),
            dim1=part.token.tolist(),
            dim2=part.feature.tolist(),
            dim3=[None] * n,
        )

    def outputs(self, faults: NeuronFaults) -> NDArray[np.float32]:
        """(n, ...) faulty outputs."""
        parts = [faults.take(rows) for rows in batches(len(faults), self.batch)]
        return torch.cat([self.forward(self.declare(part), part.image) for part in parts]).numpy()

    def weights(self, faults: WeightFaults, tolerance: Tolerance, declared_per_batch: bool = False) -> NDArray[np.int8]:
        """(n, images) verdicts. declared_per_batch: anew for each batch of images, not once per fault."""
        found = []
        for fault in range(len(faults)):
            faulty = self._declare_weight(faults, fault)
            for rows in batches(len(self.inputs), self.batch):
                if declared_per_batch and rows[0]:
                    faulty = self._declare_weight(faults, fault)
                found.append(judged(self.forward(faulty, rows), self.golden[rows], tolerance))
        return np.concatenate(found).reshape(len(faults), len(self.inputs))

    def weight_output(self, faults: WeightFaults, fault: int, image: int) -> Tensor:
        """(1, ...) of one image under one fault."""
        return self.forward(self._declare_weight(faults, fault), np.array([image]))

    def _declare_weight(self, faults: WeightFaults, fault: int) -> nn.Module:
        bit = int(faults.bit[fault])
        return self.injector.declare_weight_fi(
            function=lambda weight, place: _flipped(weight[place], bit),
            layer_num=[int(self.number[faults.layer[fault]])],
            k=[int(faults.row[fault])],
            dim1=[int(faults.column[fault])],
            dim2=[None],
            dim3=[None],
        )


def batches(count: int, batch: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(start + batch, count)) for start in range(0, count, batch)]


def _mask(bit: int) -> int:
    """The bit's mask as a signed 32-bit word."""
    return -(1 << 31) if bit == 31 else 1 << bit


def _flipped(value: Tensor, bit: int) -> Tensor:
    return (value.contiguous().view(torch.int32) ^ _mask(bit)).view(torch.float32)


def _injector(model: nn.Module, batch: int, shape: list[int]):  # type: ignore[no-untyped-def]
    """Its own class of this kind (``single_bit_flip_func``) flips bits of quantised numbers, and of 4-D outputs only."""
    if not logging.getLogger().handlers:  # it would install one whose format fails on every record
        logging.getLogger().addHandler(logging.NullHandler())
    from pytorchfi import core

    class BitFlips(core.fault_injection):
        bits: Sequence[int] = ()

        def flip_across_batch(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            """Forward hook: flips what is planned for this layer, in place, and counts layers as its own hooks do."""
            layer = self.get_current_layer()
            words = output.view(torch.int32)
            for i, wanted in enumerate(self.corrupt_layer):
                if wanted == layer:
                    words[self.corrupt_batch[i], self.corrupt_dim1[i], self.corrupt_dim2[i]] ^= _mask(self.bits[i])
            self.updateLayer()
            if self.get_current_layer() >= self.get_total_layers():
                self.reset_current_layer()

    with torch.inference_mode():
        return BitFlips(model, batch, input_shape=shape, layer_types=[nn.Linear], use_cuda=False)
