"""The fault lens: a stored fault's golden and faulty run in class space, block by block and token by token.

Every hidden state is projected to the classes by the model's own norm and head (`class_space.projection`). What the head
reads of it (CLS, or the mean of the pooled tokens) says which class the model would give after that block. So one sees
where a fault takes over, where it is repaired, and where it is absorbed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.analysis.outputs.confidence import top1
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.projection import ClassProjection, true_ranks
from testbed.sensitivity.class_space.recorder import StateRecorder, recorded
from testbed.sensitivity.fault_subject import FaultSubject, open_fault
from testbed.sensitivity.stored_fault import StoredFault, faulty_states

ABSORBED = 1e-3
"""Relative deviation of what the head reads under which a fault counts as absorbed."""

EMBEDDING = "embed"


@dataclass(frozen=True)
class TokenChange:
    """One token after a block. deviation: relative L2 distance of the faulty state from the golden one, None where it is
    not finite; golden_class, faulty_class: of its projection."""

    token: int
    deviation: float | None
    golden_class: int
    faulty_class: int


@dataclass(frozen=True)
class StateChange:
    """What the fault has done by the end of a block. after: "embed", "block.0", ...; deviation: of what the head reads,
    relative L2, None where it is not finite; golden_class, faulty_class: what the head would say, -1 beside a NaN;
    golden_rank, faulty_rank: of the true class, 0 for the best, K beside a NaN; tokens: those whose state differs in any
    bit, in their order."""

    after: str
    deviation: float | None
    golden_class: int
    faulty_class: int
    golden_rank: int
    faulty_rank: int
    tokens: tuple[TokenChange, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"tokens": [asdict(token) for token in self.tokens]}

    @property
    def agrees(self) -> bool:
        """Whether the head would say the same class."""
        return self.golden_class == self.faulty_class

    @property
    def touched(self) -> bool:
        """Whether any token differs."""
        return bool(self.tokens)


@dataclass(frozen=True)
class FaultLens:
    """A fault through all blocks. ``token_count``: N, CLS included."""

    run: str
    fault: StoredFault
    token_count: int
    blocks: tuple[StateChange, ...]

    @property
    def enters(self) -> str | None:
        """The first state that differs; None where none does."""
        return next((block.after for block in self.blocks if block.touched), None)

    @property
    def takes_over(self) -> str | None:
        """The state from which on the head would say another class to the end; None where the class is the golden one in
        the end."""
        return from_which_on(self.blocks, lambda block: not block.agrees)

    @property
    def repaired(self) -> str | None:
        """The state from which on the head would say the golden class again, after it had not; None where it never said
        another, or says another in the end."""
        if all(block.agrees for block in self.blocks):
            return None
        return from_which_on(self.blocks, lambda block: block.agrees)

    @property
    def absorbed(self) -> str | None:
        """The state from which on what the head reads deviates by less than `ABSORBED`, among those that the fault
        reaches; None where it still deviates more in the end, or where the fault reaches none."""
        start = next((at for at, block in enumerate(self.blocks) if block.touched), len(self.blocks))
        return from_which_on(
            self.blocks[start:], lambda block: block.deviation is not None and block.deviation < ABSORBED
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: what `testbed fault show --json` prints."""
        fault = self.fault
        return {
            "run": self.run,
            "fault_id": fault.fault_id,
            "target": fault.target,
            "where": fault.where,
            "site": fault.site,
            "index": fault.words[0].index.tolist(),
            "op": fault.op,
            "bit": fault.bit,
            "image_id": fault.image_id,
            "label": fault.label,
            "stored_outcome": fault.stored_outcome,
            "stored_top1": fault.stored_top1,
            "tokens": self.token_count,
            "enters": self.enters,
            "takes_over": self.takes_over,
            "repaired": self.repaired,
            "absorbed": self.absorbed,
            "blocks": [block.to_json() for block in self.blocks],
        }


def look_through(path: Path, fault_id: int, image: str | None = None) -> FaultLens:
    """Look at a stored fault through the lens. Raises UsageError as `open_fault`, and for a model without a linear head."""
    return lens_of(str(path), open_fault(path, fault_id, image))


def lens_of(run: str, subject: FaultSubject) -> FaultLens:
    """The same of a subject that is open."""
    model, fault = subject.model, subject.fault
    projection = ClassProjection.of(model)
    image = torch.from_numpy(subject.pixels[None])
    with torch.inference_mode():
        with recorded(model) as recorder:
            golden = _states(recorder, image)
        with faulty_states(model, fault) as recorder:
            faulty = _states(recorder, image)
        label = torch.tensor([fault.label])
        names = state_names(model)
        blocks = [
            state_change(name, model, projection, (before, after), label)
            for name, before, after in zip(names, golden, faulty, strict=True)
        ]
    return FaultLens(run, fault, model.config.tokens, tuple(blocks))


def state_names(model: ViT) -> list[str]:
    """The states between the blocks: the embedding, then the output of each block."""
    return [EMBEDDING, *(f"block.{index}" for index in range(model.config.depth))]


def _states(recorder: StateRecorder, image: Tensor) -> list[Tensor]:
    """(1, N, D) after the embedding and after each block."""
    tokens = recorder.embed(image)
    states = [tokens]
    states += [block.residual_out for block in recorder.blocks(tokens)]
    return states


def state_change(
    name: str,
    model: ViT,
    projection: ClassProjection,
    states: tuple[Tensor, Tensor],
    label: Tensor,
    most_tokens: int | None = None,
) -> StateChange:
    """What a fault has done by a state. states: golden and faulty, (1, N, D); label: (1,) int64; most_tokens: list only so
    many of the tokens that differ."""
    golden, faulty = states
    read = [_read_by_head(model, state) for state in states]
    logits = [model.classified(state) for state in states]
    classes = [int(top1(of_state.numpy())[0]) for of_state in logits]
    ranks = [int(true_ranks(of_state[:, None], label)) for of_state in logits]
    of_tokens = [top1(projection(state)[0].numpy()).tolist() for state in states]
    differ = (golden[0].view(torch.int32) != faulty[0].view(torch.int32)).any(-1)
    tokens = [
        TokenChange(token, _relative(golden[0, token], faulty[0, token]), *(of[token] for of in of_tokens))
        for token in torch.nonzero(differ).flatten().tolist()[:most_tokens]
    ]
    return StateChange(name, _relative(*read), classes[0], classes[1], ranks[0], ranks[1], tuple(tokens))


def _read_by_head(model: ViT, state: Tensor) -> Tensor:
    """(D,) the CLS token, or the mean of the tokens that the model pools."""
    config = model.config
    if config.pooling == "cls":
        return state[0, 0]
    return state[0, 0 if config.pooling == "mean" else config.prefix_tokens :].mean(0)


def _relative(golden: Tensor, faulty: Tensor) -> float | None:
    """Relative L2 distance, in float64; None where it is not finite."""
    before, after = golden.double(), faulty.double()
    distance = (after - before).norm() / before.norm().clamp(min=torch.finfo(torch.float64).tiny)
    value = float(distance)
    return value if torch.isfinite(distance) else None


def from_which_on(blocks: Sequence[StateChange], holds: Callable[[StateChange], bool]) -> str | None:
    """Name of the first state from which on something holds to the end; None where it does not hold in the end."""
    start = None
    for block in reversed(blocks):
        if not holds(block):
            break
        start = block.after
    return start
