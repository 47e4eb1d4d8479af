"""What protecting a site gains: its share of the SDC-1 that a campaign measured, or of the score that a ranking gives its
block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError
from testbed.core.site import Site
from testbed.sensitivity.rank.catalogue import ScoreMethod
from testbed.sensitivity.rank.measured import MeasuredRows, read_rows
from testbed.sensitivity.rank.ranking import campaign_of, rank
from testbed.sensitivity.rank.settings import ScoreSettings
from testbed.sensitivity.rank.validate import resampled_row_counts

_RESAMPLES = 500
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class GainShare:
    """A share of all that could be gained, with its 95 % interval; None for scores, which have none."""

    share: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SiteGains:
    """What covering each site gains.

    shares: (sites,) of all gains, of which the sum is at most 1; replicates: (resamples, sites) where they were measured;
    n: rows behind each site.
    """

    sites: tuple[str, ...]
    shares: Float64s
    replicates: Float64s | None
    n: tuple[int, ...] | None

    def of(self, covered: Collection[str]) -> GainShare:
        """What covering these sites gains."""
        inside = np.array([site in covered for site in self.sites])
        share = float(self.shares[inside].sum())
        if self.replicates is None:
            return GainShare(share, None, None)
        ends = ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2)
        low, high = np.quantile(self.replicates[:, inside].sum(axis=1), ends)
        return GainShare(share, float(min(low, share)), float(max(high, share)))

    def rows(self, covered: Collection[str]) -> int | None:
        """How many rows are behind that."""
        return None if self.n is None else sum(n for site, n in zip(self.sites, self.n, strict=True) if site in covered)


def measured_gains(model: Path, campaign: Path | None) -> SiteGains:
    """Each site's part of the campaign's SDC-1, rows weighed by the faults that they stand for.

    Intervals: images are drawn again, and faults within each group of alike strata. Raises UsageError for a campaign of
    another model, or one without any SDC-1.
    """
    source = campaign_of(model, campaign)
    rows = read_rows(source)
    if not rows.sdc1.any():
        raise UsageError(f"the campaign in {source} has no SDC-1: nothing says where protection would gain anything")
    names = tuple(str(name) for name in dict.fromkeys(rows.site))
    inside = np.array([rows.site == name for name in names])
    shares = _shares(inside, rows, np.ones(len(rows)))
    rng = np.random.default_rng(0)
    replicates = np.array([_shares(inside, rows, resampled_row_counts(rows, rng)) for _ in range(_RESAMPLES)])
    return SiteGains(names, shares, np.where(np.isnan(replicates), shares, replicates), tuple(inside.sum(1).tolist()))


def _shares(inside: np.ndarray, rows: MeasuredRows, times: Float64s) -> Float64s:
    """(sites,) shares of the SDC-1, each row counted so often."""
    sdc1 = inside @ (rows.weight * times * rows.sdc1)
    total = sdc1.sum()
    return np.asarray(sdc1 / total if total > 0 else np.full(len(sdc1), np.nan))


def score_gains(model: Path, by: ScoreMethod, sites: Mapping[str, Site]) -> SiteGains:
    """Each block's share of the scores, in equal parts to its sites; a score below 0 counts as none. Sites before the first
    block and after the last have no score. Raises UsageError where no block has a score above 0."""
    ranking = rank(model, by, "block", ScoreSettings())
    scores = {int(scored.component.split(".")[-1]): max(0.0, scored.score) for scored in ranking.scores}
    total = sum(scores.values())
    if not total > 0:
        raise UsageError(f"{by} gives no block a score above 0; choose another with --by")
    return spread_scores({block: score / total for block, score in scores.items()}, list(sites.values()))


def spread_scores(shares: Mapping[int, float], sites: Sequence[Site]) -> SiteGains:
    """Blocks' shares, in equal parts to their sites."""
    blocks = [site.block for site in sites]
    gains = [0.0 if block is None else shares.get(block, 0.0) / blocks.count(block) for block in blocks]
    return SiteGains(tuple(site.name for site in sites), np.array(gains), None, None)
