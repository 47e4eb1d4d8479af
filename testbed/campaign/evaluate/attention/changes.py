"""What a fault in v or k changes at an attention module's output, from the golden output and the change alone.

v: one column of the context changes by u (N,), so the output by the outer product of u and that column's row of W.
k: column s of one head's scores changes by D (N,). Softmax of a row with one changed score has a closed form: with
c = p e / (1 + p e), p = maps[:, s], e = expm1(D), the other maps shrink by 1 - c, and the head's part of the context moves
by c (v_s - context). The output changes by that times the head's rows of W.

How far the results lie from the engine's own is said by `testbed.campaign.evaluate.attention.bounds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.attention.bounds import bound_of_k, bound_of_v, head_output, head_scale, output_scale
from testbed.campaign.evaluate.attention.golden import ImageGolden
from testbed.campaign.evaluate.attention.graphs import AttentionSites
from testbed.campaign.evaluate.attention.native import add_changes
from testbed.campaign.evaluate.attention.rows import FaultyElements
from testbed.core.arrays import Float32s, Float64s, Int64s

_LARGEST = 1e18  # the squares of such numbers are finite
_LARGEST_SCORE = 60.0  # e^60 times what float32 lets underflow is still nothing
_AMPLIFIED = 64.0  # a row that looked at the struck key alone: what is left when that is taken away is mostly rounding


class SettledOutcomes(NamedTuple):
    """Which of n incremental results have a certain outcome, (n,) each; what is neither may have another outcome when
    evaluated exactly.

    settled: its outcome is the exact one. faint: as well, if any bit of the exact output differs from the golden.
    """

    settled: NDArray[np.bool_]
    faint: NDArray[np.bool_]


class Changes:
    """Changes that n injections make: ``down (across - drawn_from)`` each. down (n, N); across (n, D); drawn_from: n
    arrays (N, D), or None for zeros. usable (n,): the analysis applies; of the others nothing is said. least, most
    (n,): what the largest |change| lies between; bound (n,): of any output element's distance from exact evaluation."""

    usable: NDArray[np.bool_]
    least: Float64s
    most: Float64s
    bound: Float64s
    down: Float32s
    across: Float32s
    drawn_from: list[Float32s] | None = None

    @cached_property
    def rows(self) -> Float32s:
        """(n, N): how much each token's row changes, on some scale."""
        return np.abs(self.down)

    def change(self, injection: int, into: Float32s) -> Float32s:
        """(N, D), written to ``into``."""
        across = self.across[injection]
        if self.drawn_from is not None:
            across = np.subtract(across, self.drawn_from[injection], out=into)
        return np.multiply(self.down[injection][:, None], across, out=into)

    def verdict(self, image: Int64s, golden: Float32s, span: Float64s, atol: Float64s, rtol: float) -> SettledOutcomes:
        """Says which outcomes are certain. image, span, atol (n,): of each strike; span is its largest |golden|.
        Nothing that is not usable is settled.

        Outcomes: bit-identical to the golden, every element inside ``atol + rtol |golden|``, or not.
        """
        least, most, bound = self.least.copy(), self.most.copy(), self.bound
        inside = self.usable & (most + bound < atol)
        outside = self.usable & (least - bound > atol + rtol * span)
        change = np.empty(golden.shape[1:], np.float32)
        for injection in np.flatnonzero(
            self.usable & ~inside & ~outside
        ):  # settled by the element that is furthest out
            excess = np.abs(self.change(int(injection), change))
            least[injection] = excess.max()
            excess -= np.float32(rtol) * np.abs(golden[image[injection]])
            margin = bound[injection] + 2.0**-21 * (least[injection] + rtol * span[injection])
            inside[injection] = excess.max() + margin < atol[injection]
            outside[injection] = excess.max() - margin > atol[injection]
        differs = least > bound
        return SettledOutcomes(outside | (inside & differs), inside & ~differs)

    def outputs(self, injections: Int64s, image: Int64s, golden: Float32s) -> Float32s:
        """(m, N, D) golden outputs with the changes; image (m,)."""
        drawn_from = self.drawn_from and [self.drawn_from[injection] for injection in injections.tolist()]
        compiled = add_changes(golden, image, self.down[injections], self.across[injections], drawn_from)
        if compiled is not None:
            return compiled
        outputs = np.empty((len(injections), *golden.shape[1:]), np.float32)
        for position, (injection, row) in enumerate(zip(injections.tolist(), image.tolist(), strict=True)):
            np.add(self.change(injection, outputs[position]), golden[row], out=outputs[position])
        return outputs


class ValueChanges(Changes):
    def __init__(
        self,
        faulty: FaultyElements,
        columns: Float32s,
        before: Float32s,
        goldens: Mapping[int, ImageGolden],
        weight: Float32s,
        sites: AttentionSites,
    ) -> None:
        """Follows faults in v. columns, before: (n, N) the struck column of the context, with and without the fault.
        weight: W (H d, D)."""
        head, _, column = np.unravel_index(faulty.index, sites.site["v"].shape)
        self.across = weight[head * sites.head_width + column]
        with np.errstate(all="ignore"):  # what is not finite is not usable
            self.down = columns - before
            largest = self.rows.max(axis=1).astype(np.float64) * np.abs(self.across).max(axis=1)
        usable = np.isfinite(columns).all(axis=1) & (largest < _LARGEST)
        self.least = self.most = np.where(usable, largest, 0.0)
        scales = [output_scale(goldens[image], weight) for image in faulty.image.tolist()]
        self.bound = bound_of_v(scales, len(weight), self.most)
        self.usable = usable & np.isfinite(self.bound)


class KeyChanges(Changes):
    def __init__(
        self,
        faulty: FaultyElements,
        columns: Float32s,
        before: Float32s,
        goldens: Mapping[int, ImageGolden],
        weight: Float32s,
        sites: AttentionSites,
    ) -> None:
        """Follows faults in k. columns, before: (n, N) the struck key's column of the scores, with and without the
        fault. weight: W."""
        head, key, _ = (axis.tolist() for axis in np.unravel_index(faulty.index, sites.shape("k")))
        golden = [goldens[image] for image in faulty.image.tolist()]
        parts = [weight[h * sites.head_width : (h + 1) * sites.head_width] for h in head]
        maps = np.stack([g["softmax"][h, :, s] for g, h, s in zip(golden, head, key, strict=True)])
        with np.errstate(all="ignore"):  # what is not finite is not usable
            moved = columns - before
            grown = maps * np.expm1(moved)
            self.down = grown / (1 + grown)
        self.across = np.stack([g["v"][h, s] @ part for g, h, s, part in zip(golden, head, key, parts, strict=True)])
        self.drawn_from = heads = [head_output(g, h, part) for g, h, part in zip(golden, head, parts, strict=True)]
        lowest, largest = self.down.min(axis=1).astype(np.float64), self.rows.max(axis=1).astype(np.float64)
        usable = np.isfinite(self.down).all(axis=1) & (moved.max(axis=1) < _LARGEST_SCORE) & (-lowest < _AMPLIFIED)
        scales = [head_scale(g, h, part) for g, h, part in zip(golden, head, parts, strict=True)]
        with np.errstate(all="ignore"):
            self.bound = bound_of_k(
                [output_scale(g, weight) for g in golden],
                scales,
                len(weight),
                sites.tokens,
                lowest,
                largest,
                np.abs(moved).max(axis=1).astype(np.float64),
            )
            self.most = 2 * largest * np.array([scale.value for scale in scales])
        self.usable = usable & np.isfinite(self.bound) & (self.most < _LARGEST)
        self.least = np.array([self._most_moved(n, heads[n]) if self.usable[n] else 0.0 for n in range(len(faulty))])

    def _most_moved(self, injection: int, head: Float32s) -> float:
        """Largest |change| of the token whose attention moves most. head: (N, D) of `head_output`."""
        token = self.rows[injection].argmax()
        row = self.across[injection] - head[token]
        return float(np.abs(row).max() * self.rows[injection, token])


CHANGES: dict[str, type[ValueChanges] | type[KeyChanges]] = {"v": ValueChanges, "k": KeyChanges}
