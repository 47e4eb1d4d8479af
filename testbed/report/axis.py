"""From a rate to a place on the page, and the ticks in between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_RARE = (1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005)
_NICE = (*_RARE, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_TICKS = (1e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.8, 1.0)


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


def _is_round(step: float) -> bool:
    return f"{step:.3e}"[:5] in ("1.000", "2.000", "5.000")


def _label(tick: float) -> str:
    """Without digits that say nothing."""
    return f"{round(100 * tick, 6):g}"
