"""What a fault did: each faulty output against the engine's golden output of the same image.

The partition and its flags (names after Li et al., SC'17, "Understanding Error Propagation in Deep Learning Neural
Network Accelerators"; published tools differ, so these are the definitions here):

identical      every bit of the output equals the golden's
masked         every element inside ``atol + rtol * |golden|``
sdc_tolerable  outside, same top-1
sdc1           outside, another top-1; an output with a NaN logit has no top-1 and counts here
sdc            outside, for outputs without classes
due            only with a detector: the detector saw the output
detected       the engine's own checks raised an alarm, whatever the output is

sdc5           the faulty top-1 is not among the golden's five best; with five classes or fewer every class is among
               them, and only an output without a top-1 (NaN) counts
sdc10, sdc20   the golden class's probability moved by more than 10 / 20 % of its golden value; NaN counts as moved
nonfinite      NaN or infinity anywhere in the output
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.analysis.outputs.compare import Deviation, by_row, identical
from testbed.analysis.outputs.confidence import margin_of, softmax, top1
from testbed.analysis.outputs.native_judge import Judged, judge
from testbed.core.errors import TestbedError, UsageError
from testbed.core.outcome import OUTCOMES, Outcome
from testbed.core.words.nearest import unknown

DETECTORS = ("none", "nonfinite")
_CODES = {name: np.int8(code) for code, name in enumerate(OUTCOMES)}
_CHUNK_ELEMENTS = 1 << 15  # float64 working arrays of a chunk stay within a processor's cache


@dataclass(frozen=True)
class GoldenSide:
    """What the comparison needs of the goldens, computed once for all images and gathered per batch with `take`.

    stored: (goldens, ...) float, and row: (n,) int64 which of them is each row's (None: all, in order), so that `take`
    copies no outputs. Without classes the other fields are None. top1: (n,) int64; top5: (n, min(5, K)) best first;
    margin, probability: (n,) float64, the probability being the top-1 class's.
    """

    stored: NDArray
    row: NDArray[np.int64] | None = None
    top1: NDArray[np.int64] | None = None
    top5: NDArray[np.int64] | None = None
    margin: NDArray[np.float64] | None = None
    probability: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.stored if self.row is None else self.row)

    @property
    def elements(self) -> int:
        """Number of elements of each row."""
        return math.prod(self.stored.shape[1:])

    @property
    def values(self) -> NDArray:
        """(n, ...); a copy where rows were taken."""
        return self.stored if self.row is None else self.stored[self.row]

    @property
    def has_classes(self) -> bool:
        return self.top1 is not None

    @classmethod
    def of(cls, values: NDArray, has_classes: bool) -> GoldenSide:
        """Describes golden outputs. values: (n, K) logits if ``has_classes``, else (n, ...). Raises TestbedError if a
        golden logit is NaN."""
        if not has_classes:
            return cls(values)
        best = top1(values)
        undefined = np.flatnonzero(best < 0)
        if len(undefined):
            raise TestbedError(
                f"the golden logits of {len(undefined)} image(s) hold NaN (first at position {undefined[0]}), so no "
                "fault can be judged against them; check the engine's precision, or leave these images out"
            )
        ranked = np.argsort(-values.astype(np.float64), axis=1, kind="stable")  # the first class on ties, as in top1
        shares = softmax(values)
        probability = shares[np.arange(len(best)), best]
        return cls(values, None, best, ranked[:, :5], margin_of(shares), probability)

    def take(self, rows: ArrayLike) -> GoldenSide:
        """The goldens of ``rows`` (integers, repeats allowed), in that order."""
        index = np.asarray(rows)

        def of_rows(values: NDArray | None) -> Any:
            return None if values is None else values[index]

        return GoldenSide(
            self.stored,
            np.arange(len(self.stored))[index] if self.row is None else self.row[index],
            of_rows(self.top1),
            of_rows(self.top5),
            of_rows(self.margin),
            of_rows(self.probability),
        )


@dataclass(frozen=True)
class Outcomes:
    """One element per row, in the result rows' types. What needs classes is None for outputs without them."""

    outcome: NDArray[np.int8]  # index into testbed.core.outcome.OUTCOMES; see `names`
    nonfinite: NDArray[np.bool_]
    detected: NDArray[np.bool_]
    max_abs_diff: NDArray[np.float64]
    mismatches: NDArray[np.int32]
    masking_atol: NDArray[np.float64]  # (rows, len(rtol_grid))
    sdc5: NDArray[np.bool_] | None = None
    sdc10: NDArray[np.bool_] | None = None
    sdc20: NDArray[np.bool_] | None = None
    top1_golden: NDArray[np.int16] | None = None
    top1_faulty: NDArray[np.int16] | None = None
    margin_golden: NDArray[np.float32] | None = None
    margin_faulty: NDArray[np.float32] | None = None
    probability_golden: NDArray[np.float32] | None = None
    probability_faulty: NDArray[np.float32] | None = None

    def names(self) -> NDArray[np.str_]:
        """(rows,) the outcomes' names."""
        return outcome_names(self.outcome)


def outcome_names(codes: ArrayLike) -> NDArray[np.str_]:
    """Names of outcome codes, any shape."""
    return np.array(OUTCOMES)[np.asarray(codes)]


def classify(
    faulty: NDArray,
    golden: NDArray | GoldenSide,
    atol: ArrayLike,
    rtol: float,
    rtol_grid: Sequence[float],
    has_classes: bool = True,
    detector: str = "none",
    alarms: NDArray[np.bool_] | None = None,
) -> Outcomes:
    """Classifies each row of ``faulty`` against the same row of ``golden``.

    faulty: (rows, ...) float32, (rows, K) logits if ``has_classes``. golden: the same shape and dtype, or a
    `GoldenSide` of it (made once for all images, gathered by `GoldenSide.take`). atol: one number or (rows,).
    rtol_grid: the relative tolerances for which ``masking_atol`` is wanted. detector: "none", or "nonfinite", under
    which rows with a non-finite output are ``detected`` and become DUE. alarms: (rows,) which rows the engine's own checks
    saw, None where it has none; they are ``detected`` and become that. Every row gets every value, masked ones too.

    Raises UsageError for an unknown detector, ValueError where shapes, dtypes or ``has_classes`` disagree.
    """
    if detector not in DETECTORS:
        raise UsageError(unknown("detector", detector, DETECTORS))
    side = golden if isinstance(golden, GoldenSide) else GoldenSide.of(golden, has_classes)
    if side.has_classes != has_classes:
        raise ValueError("the golden side was made with the other value of has_classes")

    judged = _measure(faulty, side, atol, rtol, rtol_grid)
    detected = judged.nonfinite if detector == "nonfinite" else np.zeros_like(judged.nonfinite)
    classes = _class_measures(faulty, side) if has_classes else {}
    if has_classes:
        changed = classes["top1_faulty"] != classes["top1_golden"]
        outside = np.where(changed, _CODES[Outcome.SDC1], _CODES[Outcome.SDC_TOLERABLE])
    else:
        outside = np.full(len(faulty), _CODES[Outcome.SDC])
    code = np.where(judged.mismatches == 0, _CODES[Outcome.MASKED], outside)
    code = np.where(judged.identical, _CODES[Outcome.IDENTICAL], code)
    code = np.where(detected, _CODES[Outcome.DUE], code)
    if alarms is not None:
        code, detected = np.where(alarms, _CODES[Outcome.DETECTED], code), detected | alarms
    return Outcomes(
        code, judged.nonfinite, detected.copy(), judged.max_abs_diff, judged.mismatches, judged.masking_atol, **classes
    )


def _measure(faulty: NDArray, side: GoldenSide, atol: ArrayLike, rtol: float, rtol_grid: Sequence[float]) -> Judged:
    bounds = np.broadcast_to(np.asarray(atol, np.float64), (len(faulty),))
    judged = None
    if len(faulty) == len(side):
        judged = judge(faulty, side.stored, side.row, bounds, rtol, rtol_grid)
    return measured(faulty, side.values, bounds, rtol, rtol_grid) if judged is None else judged


def measured(
    faulty: NDArray, golden: NDArray, atol: NDArray[np.float64], rtol: float, rtol_grid: Sequence[float]
) -> Judged:
    """What the compiled judge finds, in NumPy. faulty, golden: (rows, ...) of one shape and dtype; atol: (rows,)."""
    rows = len(faulty)
    same = identical(faulty, golden)
    mismatches, largest = np.zeros(rows, np.int32), np.zeros(rows)
    masking, nonfinite = np.zeros((rows, len(rtol_grid))), np.zeros(rows, bool)
    step = max(1, _CHUNK_ELEMENTS // max(1, faulty[:1].size))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        deviation = Deviation(faulty[part], golden[part])
        nonfinite[part] = ~by_row(np.isfinite(faulty[part])).all(axis=1)
        mismatches[part] = np.count_nonzero(by_row(deviation.mismatch(atol[part], rtol)), axis=1)
        largest[part] = deviation.max_abs()
        for column, relative in enumerate(rtol_grid):
            masking[part, column] = deviation.smallest_atol(relative)
    return Judged(same, nonfinite, mismatches, largest, masking)


def _class_measures(faulty: NDArray, side: GoldenSide) -> dict[str, NDArray]:
    assert side.top1 is not None
    assert side.top5 is not None
    assert side.margin is not None
    assert side.probability is not None
    best = top1(faulty)
    shares = softmax(faulty)
    probability = shares[np.arange(len(best)), side.top1]
    moved = np.abs(probability - side.probability) / side.probability
    return {
        "sdc5": ~(side.top5 == best[:, None]).any(axis=1),
        "sdc10": ~(moved <= 0.10),
        "sdc20": ~(moved <= 0.20),
        "top1_golden": side.top1.astype(np.int16),
        "top1_faulty": best.astype(np.int16),
        "margin_golden": side.margin.astype(np.float32),
        "margin_faulty": margin_of(shares).astype(np.float32),
        "probability_golden": side.probability.astype(np.float32),
        "probability_faulty": probability.astype(np.float32),
    }
