"""Linear probes: what a ridge regression reads off every layer at every token position.

Features are one position's states; targets are +1 for an image's class and -1 for the others; ridge with alpha 1 and an
intercept, on a few training images per class (10-shot); the class of the largest prediction is held against the test
images' labels (Vilas et al., NeurIPS 2023).

The regression is solved from sums over images, sum x x^T and sum x y^T of the centred features, so that no features are
kept. Where the sums of all layers and positions do not fit into memory at once, the images are passed over several times.

Shapes: B images, N tokens, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from testbed.analysis.shares import MeanEstimate, ShareTally
from testbed.core.errors import UsageError
from testbed.data import Split
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.identifiability import StateName
from testbed.sensitivity.class_space.recorder import BlockStates
from testbed.sensitivity.class_space.stream import Advance, TokenBatch, observe

ALPHA, SHOTS = 1.0, 10
SUMS_BYTES = 1 << 29  # of one pass's sums

ProbePositions = Literal["all", "cls"]


@dataclass(frozen=True, order=True)
class ProbedState:
    """One state of one block."""

    block: int
    state: StateName


@dataclass(frozen=True)
class ProbeAccuracy:
    """Test accuracy of the probe of one state at one token position, on training images of ``shots`` per class."""

    block: int
    state: StateName
    position: int
    shots: int
    training_images: int
    accuracy: MeanEstimate


def probed_states(config: ViTConfig) -> list[ProbedState]:
    """Block, attention and MLP outputs of every block, as far as there are such."""
    names: list[ProbedState] = []
    for index, (heads, width) in enumerate(zip(config.heads, config.mlp, strict=True)):
        names += [ProbedState(index, "attention")] * bool(heads) + [ProbedState(index, "mlp")] * bool(width)
        names.append(ProbedState(index, "block"))
    return names


def probe_passes(config: ViTConfig, positions: Sequence[int]) -> list[list[ProbedState]]:
    """The states that each pass over the images looks at. Raises UsageError where one state's sums alone are too
    large."""
    each = 8 * len(positions) * (config.width + 1) * (config.width + config.classes)
    at_once = SUMS_BYTES // each
    if not at_once:
        fitting = SUMS_BYTES * len(positions) // each
        raise UsageError(
            f"probes of {len(positions)} positions at width {config.width} and {config.classes} classes need"
            f" {each / 2**30:.1f} GiB; probe {fitting} positions at most, or CLS alone (positions 'cls')"
        )
    states = probed_states(config)
    return [states[start : start + at_once] for start in range(0, len(states), at_once)]


def probe_positions(config: ViTConfig, which: ProbePositions | Sequence[int]) -> list[int]:
    """Token positions, 0 being CLS where there is one. Raises UsageError for CLS of a model without it, and for others
    than the model has."""
    if which == "all":
        return list(range(config.tokens))
    if which == "cls":
        if not config.cls_token:
            raise UsageError("the model has no CLS token to probe; probe all positions, or name some")
        return [0]
    if bad := [position for position in which if not 0 <= position < config.tokens]:
        raise UsageError(f"the model has no token {bad[0]}; positions are 0 to {config.tokens - 1}")
    return list(dict.fromkeys(int(position) for position in which))


def training_shots(split: Split, shots: int, classes: int, seed: int) -> Split:
    """``shots`` images of each class, a seeded choice. Raises UsageError where a class has fewer."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in range(classes):
        have = np.flatnonzero(split.labels == label)
        if len(have) < shots:
            raise UsageError(f"class {label} has {len(have)} training images, and a probe takes {shots} of each class")
        chosen.append(rng.permutation(have)[:shots])
    return split.subset(np.sort(np.concatenate(chosen)))


def probe_layers(
    model: ViT,
    training: Split,
    test: Split,
    *,
    positions: Sequence[int],
    shots: int = SHOTS,
    alpha: float = ALPHA,
    confidence: float = 0.95,
    advance: Advance = lambda images: None,
) -> tuple[ProbeAccuracy, ...]:
    """Test accuracy of a probe per state and position, in the order of the forward pass. ``training``: the probes'
    images, of `training_shots`."""
    rows = []
    for states in probe_passes(model.config, positions):
        fit = RidgeSums(states, positions, model.config.classes, alpha)
        observe(model, training, [fit], advance=advance)
        scored = _ProbeScores(fit.solved(), positions)
        observe(model, test, [scored], advance=advance)
        for state, tally in scored.tallies.items():
            for position, accuracy in zip(positions, tally.estimates(confidence), strict=True):
                rows.append(ProbeAccuracy(state.block, state.state, position, shots, len(training), accuracy))
    return tuple(rows)


@dataclass(frozen=True)
class RidgeWeights:
    """Solved regressions, float64. weight: (positions, D, K); intercept: (positions, K)."""

    weight: Tensor
    intercept: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """(B, positions, D) -> (B, positions, K)."""
        return torch.einsum("bpd,pdk->bpk", features.double(), self.weight) + self.intercept


class RidgeSums:
    """Sums of features and targets of some states, and the regressions that they give."""

    def __init__(self, states: Sequence[ProbedState], positions: Sequence[int], classes: int, alpha: float) -> None:
        self.states, self.positions, self.classes, self.alpha = list(states), list(positions), classes, alpha
        self._images = 0
        self._targets = torch.zeros(classes, dtype=torch.float64)
        # the first batch's mean is taken off: sums of squares of centred features lose no digits
        self._shift: dict[ProbedState, Tensor] = {}
        self._sums: dict[ProbedState, tuple[Tensor, Tensor, Tensor]] = {}

    def see(self, states: BlockStates, batch: TokenBatch) -> None:
        targets = 2.0 * torch.nn.functional.one_hot(batch.labels, self.classes).double() - 1
        for state, features in _features(states, self.states, self.positions):
            shift = self._shift.setdefault(state, features.mean(0))
            x = (features - shift).transpose(0, 1)  # (positions, B, D)
            parts = (x.sum(1), x.transpose(1, 2) @ x, x.transpose(1, 2) @ targets)
            if state in self._sums:
                for total, part in zip(self._sums[state], parts, strict=True):
                    total += part
            else:
                self._sums[state] = parts

    def finish(self, logits: Tensor, batch: TokenBatch) -> None:
        self._images += len(batch)
        targets = 2.0 * torch.nn.functional.one_hot(batch.labels, self.classes).double() - 1
        self._targets = self._targets.to(targets.device) + targets.sum(0)

    def solved(self) -> dict[ProbedState, RidgeWeights]:
        """The regressions. Their sums are given up."""
        return {state: self._solve(state) for state in list(self._sums)}

    def _solve(self, state: ProbedState) -> RidgeWeights:
        sums, squares, products = self._sums.pop(state)
        mean, mean_target = sums / self._images, self._targets / self._images
        squares -= self._images * mean[:, :, None] * mean[:, None, :]
        products -= self._images * mean[:, :, None] * mean_target
        squares.diagonal(dim1=1, dim2=2).add_(self.alpha)
        weight = torch.linalg.solve(squares, products)
        centre = mean + self._shift.pop(state)
        intercept = mean_target - torch.einsum("pd,pdk->pk", centre, weight)
        return RidgeWeights(weight, intercept)


class _ProbeScores:
    """Holds solved probes against test images."""

    def __init__(self, probes: dict[ProbedState, RidgeWeights], positions: Sequence[int]) -> None:
        self.probes, self.positions = probes, list(positions)
        self.tallies = {state: ShareTally(len(positions)) for state in probes}

    def see(self, states: BlockStates, batch: TokenBatch) -> None:
        for state, features in _features(states, list(self.probes), self.positions):
            predicted = self.probes[state].predict(features).argmax(-1)
            self.tallies[state].add((predicted == batch.labels[:, None]).cpu().numpy())

    def finish(self, logits: Tensor, batch: TokenBatch) -> None:
        pass


def _features(
    states: BlockStates, wanted: Sequence[ProbedState], positions: Sequence[int]
) -> Iterator[tuple[ProbedState, Tensor]]:
    """(state, features (B, positions, D) float64) of the wanted states of this block."""
    outputs = {"attention": states.attention_out, "mlp": states.mlp_out, "block": states.residual_out}
    for state in wanted:
        output = outputs[state.state]
        if state.block == states.index and output is not None:
            yield state, output[:, list(positions)].double()
