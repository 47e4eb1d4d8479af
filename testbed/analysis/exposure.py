"""Failure rates from rates and exposure: how often a fault of each site does harm, times how much of the site there is
to be struck.

A rate is of faults that have happened. With an exposure w per site (raw faults per time: bits resident x time they hold
what is used x raw rate of a bit) a site's contribution to the failure rate is ``w p``, and the whole is
``sum w_s p_s = W sum (w_s / W) p_s``, W = sum w_s: W times a rate over all sites in which each weighs by its exposure
instead of its population (`domains.Domains.combined`). So it is estimated as rates are, with intervals that know how each
site was sampled (Mukherjee et al., MICRO 2003, who call p the vulnerability factor and sum likewise).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from testbed.core.errors import UsageError
from testbed.core.site import Site


class RateWithInterval(Protocol):
    """An estimate with its interval, such as `domains.Estimate`."""

    @property
    def rate(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def high_95(self) -> float: ...
    @property
    def high_99(self) -> float: ...


@dataclass(frozen=True)
class Contribution:
    """A contribution to a failure rate, in the exposure's unit. high_95, high_99: one-sided upper bounds."""

    exposure: float
    value: float
    low: float
    high: float
    high_95: float
    high_99: float


def exposures(sites: Iterable[Site], weights: Mapping[str, float], per_bit: bool = False) -> dict[str, float]:
    """Site -> exposure, for the sites that some pattern matches; of several patterns the last one counts.

    weights: site pattern -> weight of each site that it matches, or, if ``per_bit``, of each bit of its tensor. Raises
    UsageError for a pattern that matches no site, and for a weight that is negative or not finite.
    """
    exposure_of: dict[str, float] = {}
    sites = list(sites)
    for pattern, weight in weights.items():
        if not (np.isfinite(weight) and weight >= 0):
            raise UsageError(f"exposure.sites: the weight of {pattern!r} must be a number from 0 up, not {weight}")
        hits = [site for site in sites if fnmatch.fnmatchcase(site.name, pattern)]
        if not hits:
            raise UsageError(f"exposure.sites: no site that was struck matches {pattern!r}")
        exposure_of |= {site.name: weight * (site.elements * site.format.bits if per_bit else 1) for site in hits}
    return exposure_of


def contribution(exposure: float, rate: RateWithInterval) -> Contribution:
    """The contribution of what has this exposure and this rate: one site, or several with the rate that weighs them by
    exposure."""
    return Contribution(
        exposure, *(exposure * share for share in (rate.rate, rate.low, rate.high, rate.high_95, rate.high_99))
    )


def with_unsampled(known: Contribution, exposure: float) -> Contribution:
    """The same with sites of which no fault was drawn: nothing is known of them, so that they may add all or nothing."""
    upper = (limit + exposure for limit in (known.high, known.high_95, known.high_99))
    return Contribution(known.exposure + exposure, known.value, known.low, *upper)


def summed(parts: Sequence[Contribution]) -> Contribution:
    """Contributions that were estimated from different faults, added up. The interval puts the parts' own together: each
    limit's distance is the root of the sum of the squares of theirs (Zou & Donner, Statistics in Medicine 2008), and so is
    that of each one-sided bound."""
    value = sum(part.value for part in parts)
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts))

    def above(end: str) -> float:
        return value + math.sqrt(sum((getattr(part, end) - part.value) ** 2 for part in parts))

    upper = (above(end) for end in ("high", "high_95", "high_99"))
    return Contribution(sum(part.exposure for part in parts), value, value - below, *upper)
