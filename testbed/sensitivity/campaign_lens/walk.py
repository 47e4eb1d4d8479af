"""Golden and faulty states of many faults: golden ones once per image, faulty ones only from the injected block on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from testbed.core.arrays import Float32s
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.fault_lens import FaultLens, StateChange, from_which_on, state_change, state_names
from testbed.sensitivity.stored_fault import StoredFault, faulty_states


@dataclass(frozen=True)
class FaultPath:
    """What a fault does from the state that it enters at. Numbers of states: 0 the embedding, k + 1 the output of block k.

    entry: the first that it can reach; absorbed: from which on what the head reads deviates by less than `ABSORBED` to the
    end, ``entry`` where no state differs, None where it never is; takes_over, repaired: as in `FaultLens`, but beside a NaN
    the head says no class, so not the golden one; top1: what the head says in the end, -1 beside a NaN.
    """

    entry: int
    absorbed: int | None
    takes_over: int | None
    repaired: int | None
    top1: int

    @property
    def depth(self) -> int | None:
        """Blocks after the fault's own until it is absorbed; None where it never is."""
        return None if self.absorbed is None else self.absorbed - self.entry

    @classmethod
    def of(cls, lens: FaultLens, entry: int, classes: int) -> FaultPath:
        """Read the path off a fault's lens. classes: of the model."""
        number = {state.after: position for position, state in enumerate(lens.blocks)}

        def position_of(name: str | None) -> int | None:
            return None if name is None else number[name]

        def agrees(state: StateChange) -> bool:
            return state.agrees and state.faulty_rank < classes

        absorbed = entry if lens.enters is None else position_of(lens.absorbed)
        takes_over = from_which_on(lens.blocks, lambda state: not agrees(state))
        unbroken = all(map(agrees, lens.blocks))
        repaired = None if unbroken else from_which_on(lens.blocks, agrees)
        return cls(entry, absorbed, position_of(takes_over), position_of(repaired), lens.blocks[-1].faulty_class)


@dataclass(frozen=True, eq=False)
class GoldenRun:
    """An image without a fault. pixels: (C, S, S); states: (1, N, D) after the embedding and after each block; unchanged:
    what no fault does to each; ranks: of the true class in what the head reads of each, 0 for the best."""

    pixels: Float32s
    states: tuple[Tensor, ...]
    unchanged: tuple[StateChange, ...]

    @property
    def ranks(self) -> list[int]:
        return [change.golden_rank for change in self.unchanged]


class LensWalker:
    """Runs a model, deployed as the campaign's, block by block. Raises UsageError for a model without a linear head."""

    def __init__(self, model: ViT) -> None:
        self.model, self.projection, self.names = model, ClassProjection.of(model), state_names(model)

    def golden_run(self, pixels: Float32s, label: int) -> GoldenRun:
        """Run an image without a fault."""
        with torch.inference_mode():
            states = [self._embedded(pixels)]
            for block in self.model.block:
                states.append(block(states[-1]))
            unchanged = tuple(self._changes(states, states, label, 0))
        return GoldenRun(pixels, tuple(states), unchanged)

    def lens(self, golden: GoldenRun, fault: StoredFault, entry: int) -> FaultLens:
        """Follow a fault on that image, from the state that it first reaches; of the tokens that differ in a state, the
        lens lists one."""
        with torch.inference_mode():
            faulty = list(self._faulty_states(golden, fault, entry))
            changed = tuple(self._changes(golden.states[entry:], faulty, fault.label, entry))
        return FaultLens("", fault, self.model.config.tokens, (*golden.unchanged[:entry], *changed))

    def _changes(
        self, golden: Sequence[Tensor], faulty: Sequence[Tensor], label: int, first: int
    ) -> Iterator[StateChange]:
        true_class = torch.tensor([label])
        for name, before, after in zip(self.names[first:], golden, faulty, strict=True):
            yield state_change(name, self.model, self.projection, (before, after), true_class, most_tokens=1)

    def _faulty_states(self, golden: GoldenRun, fault: StoredFault, entry: int) -> Iterator[Tensor]:
        with faulty_states(self.model, fault):
            if entry == 0:
                yield (tokens := self._embedded(golden.pixels))
            else:
                tokens = golden.states[entry - 1]
            for block in self.model.block[max(0, entry - 1) :]:
                yield (tokens := block(tokens))

    def _embedded(self, pixels: Float32s) -> Tensor:
        return self.model.embedded(torch.from_numpy(pixels[None]))
