"""Guesses of what a fault does, before any is run: they steer an adaptive campaign's allocation, and nothing else.

magnitude: how far the fault moves the value, in units of its tensor's root mean square.
gradient: how far that moves the lead of the golden class over the next one, to first order, in units of the lead.

A score is the mean of ``r / (1 + r)`` over a sample of a tensor's values, r being that distance: 0 for faults that change
nothing, 1 for those that leave all bounds. It is a guess of the rate, right in order if not in size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from testbed.campaign.plan.draw import Stratum
from testbed.campaign.plan.groups import Group
from testbed.core.arrays import Float64s
from testbed.core.fault import Op, masks_for
from testbed.core.formats import Format
from testbed.semantics import corrupt

Proxy = Literal["magnitude", "gradient"]

_DTYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_LEAST = 1e-30


@dataclass(frozen=True)
class Sample:
    """Some values of one tensor, (m,) each. slope: of the lead with the value, over the lead: 1 / (units of the value)."""

    values: Float64s
    slope: Float64s


Samples = Mapping[tuple[str, str], Sample]
"""By site and place."""


def scores(proxy: Proxy, samples: Samples) -> Callable[[Sequence[Group]], Float64s]:
    """(groups,) of 0 to 1. A group's score is the mean over its faults; words that are struck together count as one."""
    known: dict[tuple[str, str, str, str, int | None], float] = {}

    def of_stratum(stratum: Stratum) -> float:
        site = stratum.site
        key = (site.name, site.where, site.format_name, stratum.op, stratum.bit)
        if key not in known:
            bits = [stratum.bit] if stratum.bit is not None or stratum.op == "random" else stratum.bits
            sample = samples[site.name, site.where]
            known[key] = float(np.mean([score(proxy, sample, site.format, stratum.op, bit) for bit in bits]))
        return known[key]

    def of_groups(groups: Iterable[Group]) -> Float64s:
        return np.array([sum(s.size * of_stratum(s) for _, s in group.members) / group.population for group in groups])

    return of_groups


def score(proxy: Proxy, sample: Sample, fmt: Format, op: Op, bit: int | None) -> float:
    """The mean of ``r / (1 + r)``. bit: None for random words, of which each value gets one."""
    with np.errstate(all="ignore"):  # NaN and infinities count as moved beyond all bounds
        values = sample.values.astype(_DTYPES[fmt.name])
        change = np.abs(_faulty_values(values, fmt, op, bit).astype(np.float64) - values.astype(np.float64))
        if proxy == "magnitude":
            distance = change / max(float(np.sqrt(np.mean(sample.values**2))), _LEAST)
        else:
            distance = np.abs(sample.slope) * change
        bounded = np.isfinite(change) & np.isfinite(distance)
    return float(np.mean(1 - 1 / (1 + np.where(bounded, distance, np.inf))))


def _faulty_values(values: NDArray, fmt: Format, op: Op, bit: int | None) -> NDArray:
    if op != "random":
        return corrupt(values, *masks_for(op, fmt, bit))
    words = np.random.default_rng(0).integers(1 << fmt.bits, size=len(values), dtype=np.uint64)
    return corrupt(values, 0, words.astype(np.uint32), 0)
