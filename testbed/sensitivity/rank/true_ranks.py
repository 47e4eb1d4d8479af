"""Ranks of true rates that were only measured: posterior draws, for correlations that noise in the rates would lower.

Noise in measured rates attenuates their rank correlation with anything, and a bootstrap of the measured rates covers the
attenuated one (Spearman, American Journal of Psychology 1904). So the counts are modelled: part j has x_j events in n_j
faults, both effective numbers where faults are weighted or clustered, and the log odds of its true rate are
``a + sigma g(u_j)``. The latent u_j, standard normal over the parts, gives the rank; g is one of several monotone shapes
(the distribution of the rates), and a, sigma and the shape are averaged over. A score with normal scores z_j has a Gaussian
copula with them: ``u_j | z_j ~ N(rho z_j, 1 - rho^2)``, rho uniform from -1 to 1, sigma half-Cauchy. Everything is summed on
grids: the same numbers at every call, and no chain that has to converge.

The parts are all that there are: a correlation is of their ranks (posterior of u given the counts and the score), not of
the population that they might have come from.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtr, ndtri
from scipy.stats import rankdata

from testbed.core.arrays import Float64s

_REACH = 3.3  # of the latent values, in standard deviations
_NODES = 121, 601
_MOST_EVENTS = 900.0  # more events than these make a part no surer: a standard error of 3 % of its rate
_SPREADS, _CENTRES = np.geomspace(0.1, 4.0, 14), np.linspace(-3.0, 3.0, 15)
_KEPT_MASS, _MOST_CELLS, _MOST_NUMBERS = 0.9999, 600, 1 << 25
_STEP = 0.05
_RHO = np.arange(-1 + _STEP / 2, 1, _STEP)


class TrueRanks:
    """What counts say of the ranks of the true rates behind them."""

    def __init__(self, events: ArrayLike, trials: ArrayLike) -> None:
        """Takes what was counted of each part. events, trials: (parts,), 0 <= events <= trials; any real numbers, such as
        effective ones."""
        x, n = np.asarray(events, np.float64), np.asarray(trials, np.float64)
        if not ((x >= 0) & (x <= n) & (n > 0)).all():
            raise ValueError("each part's events must be from 0 to its number of trials, which is above 0")
        capped = np.minimum(1.0, _MOST_EVENTS / np.maximum(x, 1.0))
        x, n = x * capped, n * capped
        self.parts = len(x)
        nodes = np.clip(2 * _REACH * 3 * np.sqrt(max(x.max(initial=1.0), 1.0)), *_NODES)
        self.latent = np.linspace(-_REACH, _REACH, int(nodes))
        self._weight = np.exp(-0.5 * self.latent**2)
        self._weight /= self._weight.sum()
        pairs, inverse, self._alike = np.unique(
            np.stack([x, n], axis=1), axis=0, return_inverse=True, return_counts=True
        )
        self._group = inverse.ravel()
        self._x, self._n = pairs.T

    @cached_property
    def _cells(self) -> tuple[Float64s, Float64s, Float64s]:
        """((cells, nodes) log odds, (cells,) log prior, (cells, groups, nodes) likelihood over its maximum, whose log is in the
        prior): the shapes, spreads and centres that the counts allow."""
        pooled = (self._x @ self._alike + 0.5) / (self._n @ self._alike + 1)
        log_odds, prior, posterior = [], [], []
        for shape in _shapes(self.latent, self._weight):
            for spread in _SPREADS:
                centre = self._centre(spread * shape, pooled)
                width = np.sqrt(spread**2 * (1 + spread**2) / self.parts + 1 / (self._x @ self._alike + 1))
                some = centre + width * _CENTRES[:, None] + spread * shape
                weight = np.full(len(some), np.log(spread * width / (1 + spread**2)))  # half-Cauchy, on a log grid
                log_odds.append(some)
                prior.append(weight)
                posterior.append(weight + self._log_likelihood(some)[1])
        odds, priors, posteriors = (np.concatenate(some) for some in (log_odds, prior, posterior))
        share = np.exp(posteriors - posteriors.max())
        order = np.argsort(-share, kind="stable")
        enough = int(np.searchsorted(np.cumsum(share[order]), _KEPT_MASS * share.sum())) + 1
        room = max(1, _MOST_NUMBERS // (len(self._x) * len(self.latent)))
        kept = order[: min(enough, _MOST_CELLS, room)]
        likelihood, _ = self._log_likelihood(odds[kept])
        peak = likelihood.max(axis=2, keepdims=True)
        return odds[kept], priors[kept] + peak[:, :, 0] @ self._alike, np.exp(likelihood - peak)

    def _centre(self, shape: Float64s, pooled: float) -> float:
        """The centre at which rates of this shape have the pooled rate as their mean."""
        low, high = -40.0, 40.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self._weight @ expit(middle + shape) < pooled else (low, middle)
        return low

    def _log_likelihood(self, log_odds: Float64s) -> tuple[Float64s, Float64s]:
        """((cells, groups, nodes) log likelihood, (cells,) summed over all parts with nothing known of their ranks).
        log_odds: (cells, nodes)."""
        x, n = self._x[:, None], self._n[:, None]
        best = x * np.log(np.where(x > 0, x / n, 1.0)) + (n - x) * np.log(np.where(x < n, 1 - x / n, 1.0))
        values = x * log_odds[:, None] - n * np.logaddexp(0.0, log_odds)[:, None] - best
        peak = values.max(axis=2)
        marginal = np.log(np.exp(values - peak[:, :, None]) @ self._weight) + peak
        return values, marginal @ self._alike

    def draws(self, scores: ArrayLike, rng: np.random.Generator, size: int = 1000) -> Float64s:
        """(size, parts) values that have the ranks of the true rates, given the counts and the score. scores: (parts,)."""
        z = normal_scores(scores)
        _, prior, likelihood = self._cells
        kernels = np.sqrt(1 - _RHO**2)
        posterior = np.tile(prior, (len(_RHO), 1))
        for part in range(self.parts):
            posterior += np.log(self._kernel(z[part], _RHO, kernels) @ likelihood[:, self._group[part]].T)
        share = np.cumsum(np.exp(posterior - posterior.max()).ravel())
        picked = np.minimum(np.searchsorted(share, rng.random(size) * share[-1]), len(share) - 1)
        rho, cell = np.divmod(picked, len(prior))
        drawn = np.empty((size, self.parts))
        width = self.latent[1] - self.latent[0]
        for part in range(self.parts):
            weight = self._kernel(z[part], _RHO[rho], kernels[rho]) * likelihood[cell, self._group[part]]
            total = np.cumsum(weight, axis=1)
            node = (total < rng.random((size, 1)) * total[:, -1:]).sum(axis=1)
            drawn[:, part] = self.latent[np.minimum(node, len(self.latent) - 1)] + width * (rng.random(size) - 0.5)
        return drawn

    def _kernel(self, z: float, rho: Float64s, scale: Float64s) -> Float64s:
        """(correlations, nodes) density of a part's latent value, given its score."""
        density = np.exp(-0.5 * ((self.latent - rho[:, None] * z) / scale[:, None]) ** 2)
        return np.asarray(density / density.sum(axis=1, keepdims=True))


def normal_scores(values: ArrayLike) -> NDArray[np.float64]:
    """(n,) normal quantiles of the ranks, equal values sharing theirs, of variance 1; zeros where all are equal."""
    ranks = np.asarray(rankdata(values), np.float64)
    scores = np.asarray(ndtri((ranks - 0.5) / len(ranks)), np.float64)
    spread = float(np.sqrt(np.mean(scores**2)))
    return scores / spread if np.ptp(ranks) else np.zeros(len(ranks))


def _shapes(u: Float64s, weight: Float64s) -> list[Float64s]:
    """Distributions of the log odds, as increasing functions of a normal variable, each of mean 0 and variance 1: normal,
    even, two levels (half, a sixth, five sixths of the parts being high), long tails above, below and at both ends."""
    levels = [np.tanh(6 * (u - at)) + 0.05 * u for at in (0.0, 1.0, -1.0)]
    tails = [np.exp(0.7 * u), np.exp(1.5 * u), -np.exp(-0.7 * u), np.sinh(u)]
    shapes = []
    for values in (u, ndtr(u), *levels, *tails):
        centred = values - weight @ values
        shapes.append(np.asarray(centred / np.sqrt(weight @ centred**2), np.float64))
    return shapes
