"""Axes: a number's position on the page, and the ticks in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

_RARE = (1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005)
_NICE = (*_RARE, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_TICKS = (1e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.8, 1.0)
_STEPS = tuple(float(f"{step}e{power}") for power in range(-12, 13) for step in (1, 2, 5))


class Axis(Protocol):
    def __call__(self, value: float, /) -> float:
        """Pixels from the axis' start."""

    def ticks(self, apart: float) -> list[tuple[float, str]]:
        """(pixels, label), at least ``apart`` pixels from each other."""


@dataclass(frozen=True)
class RateAxis:
    """Rates from 0 to ``top`` along ``length`` pixels, either as they are or by their square root.

    The square root keeps rare outcomes visible beside common ones and, unlike a logarithm, has a place for zero.
    """

    top: float
    length: float
    square_root: bool = False

    @classmethod
    def reaching(cls, highest: Iterable[float], length: float, square_root: bool = False) -> RateAxis:
        """The shortest round axis that holds every one of ``highest``."""
        needed = max(highest, default=0.0)
        return cls(next((nice for nice in _NICE if nice >= needed), 1.0), length, square_root)

    def __call__(self, rate: float) -> float:
        """Pixels from the axis' start."""
        share = min(1.0, max(0.0, rate / self.top))
        return self.length * (share**0.5 if self.square_root else share)

    def ticks(self, apart: float) -> list[tuple[float, str]]:
        """(pixels, label in percent), at least ``apart`` pixels from each other; 0 and the top are always there."""
        if not self.square_root:
            steps = next(n for n in (5, 4, 3, 2, 1) if n == 1 or (self.length / n >= apart and _is_round(self.top / n)))
            chosen = [self.top * step / steps for step in range(steps + 1)]
        else:
            chosen = [self.top]
            for tick in reversed([t for t in _TICKS if t < self.top]):
                if self(chosen[-1]) - self(tick) >= apart and self(tick) >= apart:
                    chosen.append(tick)
            chosen = [0.0, *reversed(chosen)]
        *lower, top = [(self(tick), _label(tick)) for tick in chosen]
        return [*lower, (top[0], f"{top[1]}\u202f%")]


@dataclass(frozen=True)
class LogAxis:
    """Positive numbers along ``length`` pixels by their logarithm. What is below ``low``, zero too, is at the start."""

    low: float
    high: float
    length: float
    label: Callable[[float], str]

    @classmethod
    def holding(cls, values: Iterable[float], length: float, label: Callable[[float], str]) -> LogAxis:
        """The shortest axis with ends of 1, 2 or 5 times a power of ten that holds every positive one of ``values``."""
        held = [value for value in values if value > 0] or [1.0]
        low = max((step for step in _STEPS if step <= min(held)), default=_STEPS[0])
        high = next((step for step in _STEPS if step > low and step >= max(held)), _STEPS[-1])
        return cls(low, high, length, label)

    def __call__(self, value: float) -> float:
        inside = min(self.high, max(self.low, value))
        return self.length * math.log(inside / self.low) / math.log(self.high / self.low)

    def ticks(self, apart: float) -> list[tuple[float, str]]:
        """Ticks, as many as there is room for: of every 1, 2 and 5, of every power of ten, of every second one, and so
        on."""
        steps = [step for step in _STEPS if self.low <= step <= self.high]
        decades = [step for step in steps if f"{step:e}".startswith("1.0")]
        choices = [steps, *(decades[::every] for every in range(1, len(decades)))]
        fitting = (c for c in choices if all(self(b) - self(a) >= apart for a, b in pairwise(c)))
        return [(self(tick), self.label(tick)) for tick in next(fitting, [self.low, self.high])]


def _is_round(step: float) -> bool:
    return f"{step:.3e}"[:5] in ("1.000", "2.000", "5.000")


def _label(tick: float) -> str:
    """A label without digits that say nothing."""
    return f"{round(100 * tick, 6):g}"
