"""What a chart shows: a rate with its interval, and how outcomes divide. Charts know these, and no files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RateEstimate:
    """A population-weighted rate with its interval, from ``rows`` rows of ``faults`` faults. ``high_95``, ``high_99``: its
    one-sided upper bounds, where they are known."""

    rate: float
    low: float
    high: float
    faults: int
    rows: int
    high_95: float | None = None
    high_99: float | None = None


@dataclass(frozen=True)
class Composition:
    """How the outcomes of one group of faults divide, weighted by population. Shares add up to 1."""

    shares: dict[str, float]
    rows: int
