"""How fuzziness falls from layer to layer: two laws, fitted and told with their R^2.

Spike and decay: ``D = a exp(-b x) + c`` over the interior layers x = 1 ... L, R^2 on the linear scale.
Law of separation (He & Su 2023): ``ln D`` is linear in x; ``rho = exp(slope)`` is the factor from one layer to the next.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import linregress

from testbed.core.errors import UsageError

_START = (100.0, 0.1, 0.0)  # a, b, c
_LEAST_LAYERS = 3


@dataclass(frozen=True)
class ExponentialFit:
    """``a exp(-b x) + c``; r2 is None where the values do not vary. ``converged`` False: the numbers mean nothing."""

    a: float
    b: float
    c: float
    r2: float | None
    converged: bool

    def at(self, x: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(_exponential(np.asarray(x, np.float64), self.a, self.b, self.c))


@dataclass(frozen=True)
class SeparationFit:
    """``ln D = intercept + slope x``; rho = exp(slope); r: Pearson's; None where the values do not vary."""

    slope: float
    intercept: float
    rho: float
    r2: float | None
    r: float | None

    def at(self, x: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(np.exp(self.intercept + self.slope * np.asarray(x, np.float64)))


@dataclass(frozen=True)
class Fits:
    """``why_not``: what kept a law from being fitted; empty where both are there."""

    exponential: ExponentialFit | None
    separation: SeparationFit | None
    why_not: str = ""


def both_fits(values: ArrayLike) -> Fits:
    """Both fits of (L,) fuzziness of the interior layers; a law that cannot be fitted is None."""
    y = np.asarray(values, np.float64)
    if len(y) < _LEAST_LAYERS:
        return Fits(None, None, f"a fit takes {_LEAST_LAYERS} blocks, and there are {len(y)}")
    try:
        exponential = exponential_fit(y)
        separation = separation_fit(y) if (y > 0).all() else None
    except UsageError as error:
        return Fits(None, None, str(error))
    if exponential is not None and not exponential.converged:
        return Fits(None, separation, "no exponential fits best")
    return Fits(exponential, separation, "" if separation else "a layer's fuzziness is 0 and has no logarithm")


def exponential_fit(values: ArrayLike) -> ExponentialFit | None:
    """Least squares over (L,) fuzziness of the interior layers, at x = 1 ... L; None for fewer than three layers.

    Three layers are met exactly, if they are met at all: their R^2 says nothing. Raises UsageError for values that are
    not finite.
    """
    y = _finite(values)
    if len(y) < _LEAST_LAYERS:
        return None
    x = np.arange(1, len(y) + 1, dtype=np.float64)
    flat, converged = (0.0, 0.0, float(y.mean())), False
    try:
        with warnings.catch_warnings(), np.errstate(over="ignore"):  # the search may try any rate
            warnings.simplefilter("ignore", OptimizeWarning)
            parameters, covariance = curve_fit(_exponential, x, y, p0=_START, maxfev=20_000)
            converged = _determined(y, _exponential(x, *parameters), covariance)
    except RuntimeError:  # so many steps, and still no end
        parameters = flat
    a, b, c = parameters if converged else flat
    return ExponentialFit(float(a), float(b), float(c), _r2(y, _exponential(x, a, b, c)), converged)


def separation_fit(values: ArrayLike) -> SeparationFit | None:
    """The law of separation over (L,) fuzziness of the interior layers; None for fewer than three layers.

    Raises UsageError for values that are not finite and above 0: their logarithm is not defined.
    """
    y = _finite(values)
    if len(y) < _LEAST_LAYERS:
        return None
    if (y <= 0).any():
        raise UsageError(
            "the law of separation takes logarithms, and a layer's fuzziness is 0: its classes do not vary"
        )
    logs = np.log(y)
    if np.ptp(logs) == 0:
        return SeparationFit(0.0, float(logs[0]), 1.0, None, None)
    line = linregress(np.arange(1, len(y) + 1, dtype=np.float64), logs)
    r = float(line.rvalue)
    return SeparationFit(float(line.slope), float(line.intercept), float(np.exp(line.slope)), r * r, r)


def _exponential(x: NDArray[np.float64], a: float, b: float, c: float) -> NDArray[np.float64]:
    return a * np.exp(-b * x) + c


def _determined(y: NDArray[np.float64], fitted: NDArray[np.float64], covariance: NDArray[np.float64]) -> bool:
    """Does one law fit best? Three values leave no covariance: there is one where it meets them."""
    if np.ptp(y) == 0 or not np.isfinite(fitted).all():
        return False
    if len(y) == _LEAST_LAYERS:
        return bool(np.allclose(fitted, y, rtol=1e-6, atol=1e-6 * np.ptp(y)))
    return bool(np.isfinite(covariance).all())


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    y = np.asarray(values, np.float64)
    if not np.isfinite(y).all():
        raise UsageError("a layer's fuzziness is not finite, so no law can be fitted to it")
    return y


def _r2(y: NDArray[np.float64], fitted: NDArray[np.float64]) -> float | None:
    total = float(((y - y.mean()) ** 2).sum())
    return None if total == 0 else 1 - float(((y - fitted) ** 2).sum()) / total
