"""Faults injected as a campaign does, held against the library's own model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.choose import evaluator_for
from testbed.campaign.evaluate.golden_words import golden_words
from testbed.campaign.evaluate.injections import injections_of, with_golden_words
from testbed.campaign.injection import inject
from testbed.campaign.plan.row import PlanRow, table_of
from testbed.campaign.plan.table import PlanSlice
from testbed.compat.checks.subject import TARGET, CheckedExport, CheckFailed
from testbed.core.fault import Masks, masks_for
from testbed.core.site import Site

_CLOSE = 2e-3  # of the largest logit: the engine and PyTorch on one fault
_LEAST = 1e-3  # of a logit: what is smaller is compared as if it were so large
_LOUD = 10.0  # times the bound: an effect that tells one fault from another


@dataclass(frozen=True)
class Flip:
    """A flip of one bit of one element of a site."""

    site: Site
    index: int
    bit: int

    @property
    def masks(self) -> Masks:
        return masks_for("flip", self.site.format, self.bit)


@dataclass(frozen=True, eq=False)
class InjectedFlip:
    """What a campaign's engine gives for its first image. golden, faulty: (K,) logits."""

    flip: Flip
    golden: NDArray[np.float32]
    faulty: NDArray[np.float32]

    @property
    def is_loud(self) -> bool:
        """Whether the fault changes the logits by so much that another fault would be noticed."""
        size = max(float(np.abs(self.golden).max()), _LEAST)
        return not _largest(self.faulty, self.golden) <= _LOUD * _CLOSE * size

    def is_compared(self, eager: Iterable[NDArray[np.float32]]) -> bool:
        """Compares with the library's logits (K,), of which some must be the engine's to within two ways of computing; False
        where there are none.

        Raises CheckFailed where none of them are the engine's.
        """
        finite = np.where(np.isfinite(self.faulty), self.faulty, 0)
        bound = _CLOSE * float(np.abs([*self.golden, *finite, _LEAST]).max())
        least = None
        for logits in eager:
            differs = _largest(logits, self.faulty)
            if differs <= bound:
                return True
            least = differs if least is None else min(least, differs)
        if least is None:
            return False
        raise CheckFailed(
            f"{self.flip.site.name}: under one flip the engine's logits and the library's own differ by {least:.2g} (bound"
            f" {bound:.2g})"
        )


def inject_activations(subject: CheckedExport, flips: Sequence[Flip]) -> list[InjectedFlip]:
    """Flips as a campaign evaluates them: by the fastest way that its gates have proven."""
    workplace, engine = subject.campaign.workplace, subject.engine
    plan_slice = PlanSlice(TARGET, "activation", table_of([_planned(subject, flip) for flip in flips]))
    _, injections = injections_of(plan_slice, engine.table, engine.images)
    armed = with_golden_words(injections, golden_words(workplace, plan_slice))
    faulty = np.empty((len(flips), *engine.golden.shape[1:]), np.float32)
    for evaluated in evaluator_for(workplace, engine).evaluate(armed):
        faulty[evaluated.rows] = evaluated.outputs
    return [InjectedFlip(flip, engine.golden[0], outputs) for flip, outputs in zip(flips, faulty, strict=True)]


def inject_weight(subject: CheckedExport, flip: Flip) -> InjectedFlip:
    """A flip in a weight of the engine that a campaign changes weights in."""
    injection = inject(subject.campaign.workplace, flip.site, _planned(subject, flip))
    return InjectedFlip(flip, injection.golden, injection.faulty)


def _planned(subject: CheckedExport, flip: Flip) -> PlanRow:
    image = subject.campaign.workplace.images.ids[0]
    return PlanRow.single(TARGET, flip.site, "flip", flip.bit, flip.index, flip.masks, image)


def _largest(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Largest difference; equal infinities and NaNs do not differ."""
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        away = np.where(same, 0.0, np.abs(left.astype(np.float64) - right))
    return float(np.where(np.isnan(away), np.inf, away).max())
