"""The three verdicts that both sides can give, each against its own fault-free output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MASKED, SDC, SDC1 = 0, 1, 2
NAMES = ("masked", "outside tolerance", "top-1 changed")
_OF_OUTCOME = {"identical": MASKED, "masked": MASKED, "sdc1": SDC1}


@dataclass(frozen=True)
class Tolerance:
    """|y - golden| <= atol + rtol |golden|."""

    atol: float
    rtol: float


def judged(faulty: Tensor, golden: Tensor, tolerance: Tolerance) -> NDArray[np.int8]:
    """(n,) what a user of a PyTorch tool would compute: top-1 of (n, K) logits, and isclose. NaN has no top-1.

    Of outputs without classes (more than two axes) only the tolerance.
    """
    inside = torch.isclose(faulty, golden, rtol=tolerance.rtol, atol=tolerance.atol).flatten(1).all(1)
    verdict = torch.where(inside, MASKED, SDC).to(torch.int8)
    if faulty.dim() == 2:
        changed = (faulty.argmax(1) != golden.argmax(1)) | faulty.isnan().any(1)
        verdict[~inside & changed] = SDC1
    return verdict.numpy()


def of_names(outcomes: Sequence[str]) -> NDArray[np.int8]:
    """The campaign's outcomes, by name, as verdicts."""
    return np.array([_OF_OUTCOME.get(name, SDC) for name in outcomes], np.int8)


def agreement(
    ours: NDArray[np.int8], theirs: NDArray[np.int8], told: Callable[[int], dict[str, Any]]
) -> dict[str, Any]:
    """Share of equal verdicts, and each disagreement with what ``told(row)`` adds to it.

    ``agreement_of_finite`` leaves out rows where the output of one side is finite and the other's is not: a number whose
    square overflows can be NaN behind one library's LayerNorm and vanish in another's. So ``told`` says of both whether they
    are: ``ours_nonfinite``, ``theirs_nonfinite``.
    """
    differ = np.flatnonzero(ours != theirs)
    cases = [{"ours": NAMES[ours[row]], "theirs": NAMES[theirs[row]]} | told(int(row)) for row in differ]
    overflown = sum(case["ours_nonfinite"] != case["theirs_nonfinite"] for case in cases)
    return {
        "rows": len(ours),
        "agreement": _share(len(ours) - len(cases), len(ours)),
        "agreement_of_finite": _share(len(ours) - len(cases), len(ours) - overflown),
        "disagreements": cases,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
