"""The parts of a ViT that can be scored, protected or removed: blocks, attention heads, neurons of the MLPs.

Names: ``block.3``, ``block.3.head.2``, ``block.3.mlp.neuron.17``, ``block.3.mlp.chunk.2`` (the third of so many equal
runs of neurons). What is left of a model once some are gone is a `KeptComponents`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from testbed.core.errors import UsageError
from testbed.models.config import ViTConfig

ComponentKind = Literal["block", "head", "chunk", "neuron"]
KINDS: tuple[ComponentKind, ...] = ("block", "head", "chunk", "neuron")


@dataclass(frozen=True)
class Component:
    """``units``: the heads, or the neurons of the MLP, that it stands for; both of them for a block."""

    kind: ComponentKind
    block: int
    heads: tuple[int, ...] = ()
    neurons: tuple[int, ...] = ()
    number: int = 0

    @property
    def name(self) -> str:
        if self.kind == "block":
            return f"block.{self.block}"
        if self.kind == "head":
            return f"block.{self.block}.head.{self.number}"
        return f"block.{self.block}.mlp.{self.kind}.{self.number}"


def components(config: ViTConfig, kinds: Collection[str] = ("head", "chunk"), chunks: int = 8) -> list[Component]:
    """Every component of these kinds, in the order of the forward pass: a block after its parts.

    chunks: runs of neurons per MLP, as equal as can be; an MLP of fewer neurons has one per neuron. Raises UsageError
    for an unknown kind, none at all, or fewer than one chunk.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"unknown kind of component {unknown[0]!r}; kinds: {', '.join(KINDS)}")
    if not kinds or chunks < 1:
        raise UsageError("name at least one kind of component, and one chunk or more per MLP")
    chosen: list[Component] = []
    for block, (heads, neurons) in enumerate(zip(config.heads, config.mlp, strict=True)):
        if "head" in kinds:
            chosen += [Component("head", block, heads=(head,), number=head) for head in range(heads)]
        if "chunk" in kinds and neurons:
            runs = np.array_split(np.arange(neurons), min(chunks, neurons))
            chosen += [Component("chunk", block, neurons=tuple(run.tolist()), number=n) for n, run in enumerate(runs)]
        if "neuron" in kinds:
            chosen += [Component("neuron", block, neurons=(n,), number=n) for n in range(neurons)]
        if "block" in kinds and (heads or neurons):
            chosen.append(Component("block", block, tuple(range(heads)), tuple(range(neurons)), block))
    return chosen


@dataclass(frozen=True)
class KeptComponents:
    """Heads and neurons that are left, per block, ascending.

    A branch of which nothing is left is gone with its output bias: a block without heads adds no attention at all.
    """

    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]

    @classmethod
    def all_of(cls, config: ViTConfig) -> KeptComponents:
        return cls(tuple(tuple(range(n)) for n in config.heads), tuple(tuple(range(n)) for n in config.mlp))

    def without(self, removed: Iterable[Component]) -> KeptComponents:
        heads, neurons = [set(indices) for indices in self.heads], [set(indices) for indices in self.neurons]
        for component in removed:
            heads[component.block] -= set(component.heads)
            neurons[component.block] -= set(component.neurons)
        return KeptComponents(
            tuple(tuple(sorted(indices)) for indices in heads), tuple(tuple(sorted(indices)) for indices in neurons)
        )

    def holds(self, component: Component) -> bool:
        """Is any of it left?"""
        heads, neurons = self.heads[component.block], self.neurons[component.block]
        return bool(set(component.heads) & set(heads) or set(component.neurons) & set(neurons))

    @property
    def is_empty(self) -> bool:
        return not any(self.heads) and not any(self.neurons)

    def check(self, config: ViTConfig) -> None:
        """Raises UsageError when it is not of this model."""
        for what, kept, sizes in (("heads", self.heads, config.heads), ("neurons", self.neurons, config.mlp)):
            if len(kept) != len(sizes):
                raise UsageError(f"{len(kept)} blocks name the {what} to keep, the model has {len(sizes)}")
            for block, (chosen, size) in enumerate(zip(kept, sizes, strict=True)):
                if list(chosen) != sorted(set(chosen)) or (chosen and not 0 <= chosen[0] <= chosen[-1] < size):
                    raise UsageError(f"block {block} has {what} 0 to {size - 1}; each can be kept once: {chosen}")


def by_name(available: Sequence[Component], names: Iterable[str]) -> list[Component]:
    """Raises UsageError for a name that none of them has."""
    known = {component.name: component for component in available}
    chosen = []
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no component {name!r}; there are {len(known)}: {', '.join(list(known)[:6])}, ..."
            )
        chosen.append(known[name])
    return chosen
