"""Alpha spending: how sure each of several looks at growing data must be, so that all of them together are sure enough.

An estimate that is looked at K times misses the truth in one of the looks more often than in a single one. A spending
function says how much of the total error ``alpha`` may be used up to information time t (0 at the start, 1 when the
data are as informative as wanted); the critical value of each look follows from what the earlier ones left (Lan &
DeMets, Biometrika 1983). Intervals with these critical values hold at all looks at once, whatever the reason to stop
(Jennison & Turnbull, JRSS B 1989).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_FAR = 7.5  # standard deviations beyond which nothing is left of a normal distribution
_NOTHING = 1e-12  # error too small to be spent


def obrien_fleming(time: float, alpha: float) -> float:
    """``4 - 4 Phi(z_{alpha/4} / sqrt t)``: next to nothing early, nearly a single look's error at the end.

    Each tail spends ``2 - 2 Phi(z_{alpha/4} / sqrt t)`` of its alpha/2, as in Lan & DeMets 1983; like the boundaries of
    O'Brien & Fleming (Biometrics 1979).
    """
    if time <= 0:
        return 0.0
    return float(4 * ndtr(ndtri(alpha / 4) / math.sqrt(min(time, 1.0))))


def pocock(time: float, alpha: float) -> float:
    """``alpha ln(1 + (e - 1) t)``: nearly the same critical value at each look, as Pocock's (Biometrika 1977)."""
    return alpha * math.log1p((math.e - 1) * min(max(time, 0.0), 1.0))


Spending = Callable[[float, float], float]
SPENDING: dict[str, Spending] = {"obrien-fleming": obrien_fleming, "pocock": pocock}


def spending_named(name: str) -> Spending:
    """Raises UsageError for a name that is not in `SPENDING`."""
    if name not in SPENDING:
        raise UsageError(unknown("spending function", name, SPENDING))
    return SPENDING[name]


def critical_values(times: Sequence[float], spent: Sequence[float]) -> list[float]:
    """The two-sided critical value of each look; inf where nothing may be spent.

    times: information at each look, in any unit, strictly rising. spent: error used up to and with each look, not
    falling. With these, a standard normal score of independent increments leaves ``(-c_k, c_k)`` first at look k with
    probability ``spent[k] - spent[k-1]``. Raises ValueError for times or errors that are no such sequences.
    """
    if len(times) != len(spent):
        raise ValueError("each look has one time and one error spent")
    return [
        _look(tuple(map(float, times[:k])), tuple(map(float, spent[:k]))).critical for k in range(1, len(times) + 1)
    ]


def critical_value(times: tuple[float, ...], spent: tuple[float, ...]) -> float:
    """`critical_values` of the last look. Sequences seen before cost nothing."""
    return _look(times, spent).critical


class _Look:
    """One look: its critical value, and the density of the score there of those that never left before."""

    def __init__(self, critical: float, nodes: NDArray[np.float64], mass: NDArray[np.float64]) -> None:
        self.critical, self.nodes, self.mass = critical, nodes, mass


@lru_cache(maxsize=20_000)
def _look(times: tuple[float, ...], spent: tuple[float, ...]) -> _Look:
    time, increment = times[-1], spent[-1] - (spent[-2] if len(spent) > 1 else 0.0)
    if not (time > 0 and 0 <= spent[-1] < 1 and increment >= 0):
        raise ValueError("information times are above 0, and errors spent do not fall and stay below 1")
    if len(times) == 1:
        critical = -ndtri(increment / 2) if increment > _NOTHING else math.inf
        nodes, weights = _quadrature(critical)
        return _Look(float(critical), nodes, weights * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi))
    before = _look(times[:-1], spent[:-1])
    if times[-2] >= time:
        raise ValueError("information times must rise from look to look")
    scale, step = math.sqrt(time), math.sqrt(time - times[-2])
    centre = before.nodes * math.sqrt(times[-2])  # of the score times sqrt(time): increments are independent

    def leaving(c: float) -> float:
        return float(before.mass @ (ndtr((centre - c * scale) / step) + ndtr((-c * scale - centre) / step)))

    critical = brentq(lambda c: leaving(c) - increment, 0, 40) if increment > _NOTHING else math.inf
    nodes, weights = _quadrature(critical)
    kernel = np.exp(-(((nodes[:, None] * scale - centre) / step) ** 2) / 2) * scale / step / math.sqrt(2 * math.pi)
    return _Look(float(critical), nodes, weights * (kernel @ before.mass))


def _quadrature(critical: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights on (-critical, critical)."""
    reach = min(critical, _FAR)
    return reach * _NODES, reach * _WEIGHTS
