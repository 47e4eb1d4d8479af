"""The one list of faults that every side runs: single bit flips in outputs, or in weights, of linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from testbed.testing import FP32, ViTConfig


@dataclass(frozen=True)
class Layer:
    """A linear layer of a block, as PyTorch has it. (N tokens, ``outputs``) come out of it; ``inputs`` go in."""

    block: int
    name: str
    inputs: int
    outputs: int

    @property
    def module(self) -> str:
        """Its name among the model's modules."""
        return f"block.{self.block}.{self.name}"


def linear_layers(config: ViTConfig, blocks: Sequence[int] | None = None, attention_only: bool = False) -> list[Layer]:
    """In the order of the forward pass: qkv, proj, fc1 and fc2 of each block, or only the attention's."""
    found = []
    for block in range(config.depth) if blocks is None else blocks:
        inner, hidden, width = config.heads[block] * config.head_width, config.mlp[block], config.width
        if inner:
            found += [Layer(block, "attn.qkv", width, 3 * inner), Layer(block, "attn.proj", inner, width)]
        if hidden and not attention_only:
            found += [Layer(block, "mlp.fc1", width, hidden), Layer(block, "mlp.fc2", hidden, width)]
    return found


@dataclass(frozen=True)
class _Columns:
    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: NDArray[np.int64] | slice) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class NeuronFaults(_Columns):
    """(n,) each. layer: number among the layers that were drawn from; token, feature: the element of its output."""

    layer: NDArray[np.int64]
    token: NDArray[np.int64]
    feature: NDArray[np.int64]
    bit: NDArray[np.int64]
    image: NDArray[np.int64]


@dataclass(frozen=True)
class WeightFaults(_Columns):
    """(n,) each. row, column: into the layer's weight (outputs, inputs). Each fault is there for all images."""

    layer: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    bit: NDArray[np.int64]


def neuron_faults(layers: Sequence[Layer], tokens: int, images: int, count: int, seed: int) -> NeuronFaults:
    """Uniform over the elements of all layers' outputs, the bits and the images."""
    rng = np.random.default_rng([seed, 1])
    layer = _by_size(rng, [one.outputs for one in layers], count)
    feature = rng.integers(np.array([one.outputs for one in layers])[layer])
    return NeuronFaults(
        layer,
        rng.integers(tokens, size=count),
        feature,
        rng.integers(FP32.bits, size=count),
        rng.integers(images, size=count),
    )


def weight_faults(layers: Sequence[Layer], count: int, seed: int) -> WeightFaults:
    """Uniform over the elements of all layers' weights and the bits."""
    rng = np.random.default_rng([seed, 2])
    layer = _by_size(rng, [one.inputs * one.outputs for one in layers], count)
    row = rng.integers(np.array([one.outputs for one in layers])[layer])
    column = rng.integers(np.array([one.inputs for one in layers])[layer])
    return WeightFaults(layer, row, column, rng.integers(FP32.bits, size=count))


def _by_size(rng: np.random.Generator, sizes: Sequence[int], count: int) -> NDArray[np.int64]:
    return rng.choice(len(sizes), size=count, p=np.array(sizes) / sum(sizes))


def neuron_places(
    faults: NeuronFaults, layers: Sequence[Layer], config: ViTConfig
) -> tuple[list[str], NDArray[np.int64]]:
    """Site names and flat indices of the same elements here: qkv's output holds (q, k, v) x heads x head width."""
    sites, index = [], np.empty(len(faults), np.int64)
    for number in range(len(faults)):
        layer = layers[faults.layer[number]]
        token, feature = int(faults.token[number]), int(faults.feature[number])
        site = layer.module
        if layer.name == "attn.qkv":
            inner = layer.outputs // 3
            part, rest = divmod(feature, inner)
            head, column = divmod(rest, config.head_width)
            site = f"block.{layer.block}.attn.{'qkv'[part]}"
            index[number] = (head * config.tokens + token) * config.head_width + column
        else:
            index[number] = token * layer.outputs + feature
        sites.append(site)
    return sites, index


def weight_places(faults: WeightFaults, layers: Sequence[Layer]) -> tuple[list[str], NDArray[np.int64]]:
    sites = [f"{layers[number].module}.weight" for number in faults.layer]
    inputs = np.array([layer.inputs for layer in layers])
    return sites, faults.row * inputs[faults.layer] + faults.column
