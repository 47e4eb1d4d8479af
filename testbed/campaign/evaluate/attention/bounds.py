"""How far an incremental result can lie from what the engine itself would give: rounding analysis, probabilistic form.

Model (Higham and Mary 2019; Ipsen and Zhou 2020): roundings are independent, of mean zero, uniform within half a unit in
the last place. A sum of products with partial sums S_1 .. S_n then errs by a sub-Gaussian amount of deviation
``u sqrt(sum S_k^2 / 3)``, u = 2^-24, and ``LAMBDA`` deviations are exceeded with probability 2 exp(-LAMBDA^2 / 2) at the
element with the largest partial sums, far less at others. Partial sums are those of the golden run, in index order, looked
at in ``CUTS`` places; an engine that adds in another order has partial sums of the same size. Golden and faulty run err
apart: their variances add. What the fault adds to the partial sums is bounded by the largest change ``reach``.

Every bound holds for all elements of one output, y = context W + b, W (H d, D), with

  P  = u sqrt(2/3) max_ij sqrt(sum_k S_k^2)                     of the projection's partial sums,
  G  = max |golden output|, n = H d + 1.

v: the struck column of the context is the engine's own, so only the projection errs:
  bound = LAMBDA (P + u sqrt(n/3) reach) + u (G + 6 reach),  reach = max_ij |change_ij|.

k: the struck column of the scores is the engine's own; softmax and context are followed in closed form. Of the struck head:
  C  = u sqrt(2/3) max sqrt(sum_k T_k^2) max_j |W_.j|           the context's partial sums T, carried to the output,
  E  = u sqrt(2) max_i |p_i (4 + y_i)| V                        exp within 4u + u y, y = row's largest score - score,
  Z  = u sqrt(2 N) / 3 O                                        the row sum that the maps are divided by,
  V  = max |v W|, O = max |context W|, Y = max y, c = closed form's weight, a = 1 + max(0, -c), D = max score change,
  bound = LAMBDA sqrt(P^2 + a^2 (C^2 + E^2 + Z^2))
        + LAMBDA u max|c| (2 sqrt(N/3) max|v| max_j |W_.j| + (5 + ln N) V + 2 sqrt(d/3) V) + LAMBDA u sqrt(n/3) reach
        + u (G + 6 reach + 4 a O + a (10 + Y + D + LAMBDA sqrt(N)/3) reach),  reach = 2 max|c| V, at least
  any |change|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from testbed.campaign.evaluate.attention.golden import ImageGolden
from testbed.core.arrays import Float32s, Float64s

LAMBDA = 6.0
CUTS = 8
U = 2.0**-24
_EXP = 4.0  # units in the last place that an engine's exp may err by


class OutputScale(NamedTuple):
    """The scales P and G of the bounds, for one image."""

    partial: float
    largest: float


class HeadScale(NamedTuple):
    """The scales of one head of one image: sqrt(C^2 + E^2 + Z^2), V, O, Y, and u times what max|c| is multiplied by."""

    deviation: float
    value: float
    output: float
    spread: float
    weighted: float


def output_scale(golden: ImageGolden, weight: Float32s) -> OutputScale:
    """Computes an image's `OutputScale`. weight: W (H d, D)."""

    def made() -> OutputScale:
        partial = U * math.sqrt(2 / 3) * _partial_norm(golden["context"], weight)
        return OutputScale(partial, float(np.abs(golden["proj"]).max()))

    return golden.noted("output_scale", made)


def head_output(golden: ImageGolden, head: int, weight: Float32s) -> Float32s:
    """(N, D) what one head adds to the output. weight: (d, D), the head's rows of W."""
    width = len(weight)
    return golden.noted(f"head_output.{head}", lambda: golden["context"][:, head * width : (head + 1) * width] @ weight)


def head_scale(golden: ImageGolden, head: int, weight: Float32s) -> HeadScale:
    """Computes a head's `HeadScale`. weight: (d, D), the head's rows of W."""
    return golden.noted(f"head_scale.{head}", lambda: _head_scale(golden, head, weight))


def bound_of_v(scales: Sequence[OutputScale], inner: int, reach: Float64s) -> Float64s:
    """(n,) bounds of changes that go through the projection alone; one scale each. inner: H d."""
    partial, largest = np.array(scales).T
    return LAMBDA * (partial + U * math.sqrt((inner + 1) / 3) * reach) + U * (largest + 6 * reach)


def bound_of_k(
    scales: Sequence[OutputScale],
    heads: Sequence[HeadScale],
    inner: int,
    tokens: int,
    lowest: Float64s,
    weight: Float64s,
    score: Float64s,
) -> Float64s:
    """(n,) bounds; one scale and one head's scale each. lowest, weight: smallest c, largest |c| over rows; score: D."""
    partial, largest = np.array(scales).T
    deviation, value, output, spread, weighted = np.array(heads).T
    reach = 2 * weight * value
    amplified = 1 + np.maximum(0.0, -lowest)
    random = np.hypot(partial, amplified * deviation)
    random = random + U * math.sqrt((inner + 1) / 3) * reach + weight * weighted
    relative = 6 + amplified * (10 + spread + score + LAMBDA * math.sqrt(tokens) / 3)
    return LAMBDA * random + U * (largest + relative * reach + 4 * amplified * output)


def _head_scale(golden: ImageGolden, head: int, weight: Float32s) -> HeadScale:
    scores, maps, v = golden["scores"][head], golden["softmax"][head], golden["v"][head]
    tokens, width = v.shape
    y = scores.max(axis=1, keepdims=True) - scores
    value = float(np.abs(v @ weight).max())
    output = float(np.abs(head_output(golden, head, weight)).max())
    columns = float(np.sqrt(np.square(weight).sum(axis=0)).max())
    carried = math.sqrt(2 / 3) * _partial_norm(maps, v) * columns
    exponential = math.sqrt(2) * float(np.sqrt(np.square(maps * (_EXP + y)).sum(axis=1)).max()) * value
    divided = math.sqrt(2 * tokens) / 3 * output
    weighted = (
        2 * math.sqrt(tokens / 3) * float(np.abs(v).max()) * columns
        + (5 + math.log(tokens) + 2 * math.sqrt(width / 3)) * value
    )
    deviation = math.sqrt(carried**2 + exponential**2 + divided**2)
    return HeadScale(U * deviation, value, output, float(y.max()), U * weighted)


def _partial_norm(a: Float32s, b: Float32s) -> float:
    """Largest sqrt(sum_k S_k^2) of any element of a @ b, from partial sums at a few places k."""
    edges = np.linspace(0, a.shape[1], min(CUTS, a.shape[1]) + 1).astype(int)
    partial = np.zeros((len(a), b.shape[1]), np.float32)
    squares = np.zeros_like(partial)
    for start, stop in pairwise(edges.tolist()):
        partial += a[:, start:stop] @ b[start:stop]
        squares += (stop - start) * np.square(partial)
    return math.sqrt(float(squares.max()))
