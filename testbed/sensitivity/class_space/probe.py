"""Linear probes: what a ridge regression reads off every layer at every token position.

Features are one position's states; targets are +1 for an image's class and -1 for the others; ridge with alpha 1 and an
intercept, on a few training images per class (10-shot); the class of the largest prediction is held against the test
images' labels (Vilas et al., NeurIPS 2023).

The regression is solved from sums over images, sum x x^T and sum x y^T of the centred features, so that no features are
kept. A pass over the images holds the sums of as many states and positions as fit into `SUMS_BYTES`; the others have
passes of their own. A probe's sums are D (D + K + 1) numbers: 10.8 MB at width 768 and 1,000 classes.

Shapes: B images, N tokens, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
SUMS_BYTES = 1 << 30  # of one pass's sums
MOST_PASSES = 4  # over the images, unless positions are asked for

ProbePosition = int | Literal["pooled"]
"""A token position, 0 being CLS where there is one; "pooled": the mean over all image tokens."""
ProbePositions = Literal["auto", "all", "cls"]


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
    position: ProbePosition
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


ProbePass = dict[ProbedState, list[ProbePosition]]
"""What one pass over the images looks at."""


def probe_passes(config: ViTConfig, positions: Sequence[ProbePosition]) -> list[ProbePass]:
    """All states at all ``positions``, by the passes over the images that take their sums. Raises UsageError where the
    sums of a single probe are too large."""
    at_once = _probes_at_once(config)
    probes = [(state, position) for state in probed_states(config) for position in positions]
    passes: list[ProbePass] = []
    for start in range(0, len(probes), at_once):
        passes.append({})
        for state, position in probes[start : start + at_once]:
            passes[-1].setdefault(state, []).append(position)
    return passes


def _probes_at_once(config: ViTConfig) -> int:
    each = 8 * config.width * (config.width + config.classes + 1)
    if each > SUMS_BYTES:
        raise UsageError(
            f"a probe at width {config.width} and {config.classes} classes needs {each / 2**30:.1f} GiB, and"
            f" {SUMS_BYTES / 2**30:.1f} GiB is the most that is taken; leave the probes out (--analyses)"
        )
    return SUMS_BYTES // each


def probe_positions(
    config: ViTConfig, which: ProbePositions | Sequence[ProbePosition], seed: int = 0
) -> list[ProbePosition]:
    """Token positions, 0 being CLS where there is one.

    "auto": all, where these take `MOST_PASSES` passes over the images at most; otherwise CLS, the mean over the image
    tokens, and as many image tokens as those passes hold, drawn at random by ``seed``. Raises UsageError for CLS of a
    model without it, and for others than the model has.
    """
    if which == "all":
        return list(range(config.tokens))
    if which == "auto":
        everywhere: list[ProbePosition] = list(range(config.tokens))
        fits = len(probe_passes(config, everywhere)) <= MOST_PASSES
        return everywhere if fits else _sampled_positions(config, seed)
    if which == "cls":
        if not config.cls_token:
            raise UsageError("the model has no CLS token to probe; probe all positions, or name some")
        return [0]
    numbers = [position for position in which if position != "pooled"]
    if bad := [position for position in numbers if not 0 <= position < config.tokens]:
        raise UsageError(f"the model has no token {bad[0]}; positions are 0 to {config.tokens - 1}")
    return list(dict.fromkeys(which))


def _sampled_positions(config: ViTConfig, seed: int) -> list[ProbePosition]:
    first = config.prefix_tokens
    fitting = MOST_PASSES * _probes_at_once(config) // len(probed_states(config))
    drawn = np.random.default_rng(seed).permutation(np.arange(first, config.tokens))[: max(0, fitting - first - 1)]
    return [*range(first), "pooled", *(int(position) for position in np.sort(drawn))]


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
    positions: Sequence[ProbePosition],
    shots: int = SHOTS,
    alpha: float = ALPHA,
    confidence: float = 0.95,
    advance: Advance = lambda images: None,
) -> tuple[ProbeAccuracy, ...]:
    """Test accuracy of a probe per state and position, in the order of the forward pass. ``training``: the probes'
    images, of `training_shots`."""
    rows = []
    for probed in probe_passes(model.config, positions):
        tallies = _accuracy_of_pass(model, training, test, probed, alpha, advance)
        for state, tally in tallies.items():
            for position, accuracy in zip(probed[state], tally.estimates(confidence), strict=True):
                rows.append(ProbeAccuracy(state.block, state.state, position, shots, len(training), accuracy))
    return tuple(rows)


def _accuracy_of_pass(
    model: ViT, training: Split, test: Split, probed: ProbePass, alpha: float, advance: Advance
) -> dict[ProbedState, ShareTally]:
    """Hits of one pass's probes, whose sums and weights end with it."""
    fit = RidgeSums(probed, model.config.classes, alpha)
    observe(model, training, [fit], advance=advance)
    scored = _ProbeScores(fit.solved(), probed)
    observe(model, test, [scored], advance=advance)
    return scored.tallies


@dataclass(frozen=True)
class RidgeWeights:
    """Solved regressions, float64. weight: (positions, D, K); intercept: (positions, K)."""

    weight: Tensor
    intercept: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """(B, positions, D) -> (B, positions, K)."""
        return torch.einsum("bpd,pdk->bpk", features.double(), self.weight) + self.intercept


class RidgeSums:
    """Sums of features and targets of some states at some positions, and the regressions that they give."""

    def __init__(self, probed: Mapping[ProbedState, Sequence[ProbePosition]], classes: int, alpha: float) -> None:
        self.probed, self.classes, self.alpha = probed, classes, alpha
        self._images = 0
        self._targets = torch.zeros(classes, dtype=torch.float64)
        # the first batch's mean is taken off: sums of squares of centred features lose no digits
        self._shift: dict[ProbedState, Tensor] = {}
        self._sums: dict[ProbedState, tuple[Tensor, Tensor, Tensor]] = {}

    def see(self, states: BlockStates, batch: TokenBatch) -> None:
        targets = self._targets_of(batch)
        for state, features in _features(states, self.probed, batch):
            shift = self._shift.setdefault(state, features.mean(0))
            x = (features - shift).transpose(0, 1)  # (positions, B, D)
            if state not in self._sums:
                positions, _, width = x.shape
                shapes = ((positions, width), (positions, width, width), (positions, width, self.classes))
                self._sums[state] = (x.new_zeros(shapes[0]), x.new_zeros(shapes[1]), x.new_zeros(shapes[2]))
            total, squares, products = self._sums[state]
            total += x.sum(1)
            squares.baddbmm_(x.transpose(1, 2), x)  # in place: the sums are all that there is memory for
            products.baddbmm_(x.transpose(1, 2), targets.expand(len(x), -1, -1))

    def finish(self, logits: Tensor, batch: TokenBatch) -> None:
        self._images += len(batch)
        targets = self._targets_of(batch)
        self._targets = self._targets.to(targets.device) + targets.sum(0)

    def solved(self) -> dict[ProbedState, RidgeWeights]:
        """The regressions. Their sums are given up."""
        return {state: self._solve(state) for state in list(self._sums)}

    def _solve(self, state: ProbedState) -> RidgeWeights:
        sums, squares, products = self._sums.pop(state)
        mean, mean_target = sums / self._images, self._targets / self._images
        for position, centre in enumerate(mean):  # each in the place of its sums
            squares[position] -= self._images * torch.outer(centre, centre)
            products[position] -= self._images * torch.outer(centre, mean_target)
            squares[position].diagonal().add_(self.alpha)
            products[position] = torch.linalg.solve(squares[position], products[position])
        centre = mean + self._shift.pop(state)
        return RidgeWeights(products, mean_target - torch.einsum("pd,pdk->pk", centre, products))

    def _targets_of(self, batch: TokenBatch) -> Tensor:
        """(B, K) +1 for an image's class, -1 for the others."""
        return 2.0 * torch.nn.functional.one_hot(batch.labels, self.classes).double() - 1


class _ProbeScores:
    """Holds solved probes against test images."""

    def __init__(self, probes: dict[ProbedState, RidgeWeights], probed: ProbePass) -> None:
        self.probes, self.probed = probes, probed
        self.tallies = {state: ShareTally(len(positions)) for state, positions in probed.items()}

    def see(self, states: BlockStates, batch: TokenBatch) -> None:
        for state, features in _features(states, self.probed, batch):
            predicted = self.probes[state].predict(features).argmax(-1)
            self.tallies[state].add((predicted == batch.labels[:, None]).cpu().numpy())

    def finish(self, logits: Tensor, batch: TokenBatch) -> None:
        pass


def _features(
    states: BlockStates, probed: Mapping[ProbedState, Sequence[ProbePosition]], batch: TokenBatch
) -> Iterator[tuple[ProbedState, Tensor]]:
    """(state, features (B, positions, D) float64) of the wanted states of this block."""
    outputs = {"attention": states.attention_out, "mlp": states.mlp_out, "block": states.residual_out}
    image = batch.kinds["image"][0]  # the same tokens in every image
    for state, positions in probed.items():
        output = outputs[state.state]
        if state.block == states.index and output is not None:
            columns = [
                output[:, image].double().mean(1) if position == "pooled" else output[:, position].double()
                for position in positions
            ]
            yield state, torch.stack(columns, dim=1)
