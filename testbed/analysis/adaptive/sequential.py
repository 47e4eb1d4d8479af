"""Sampling in rounds until every domain's rate is known to within a margin.

After each round each domain is looked at. Its information time is ``(margin / w)^2``, w being half the width of its
interval, so that 1 is when the margin is met; alpha spending (`spending`) gives the confidence of the interval at that
look. A tenth of the error is kept back for looks after time 1, of which the k-th leaves 1/(k+1). Shortly before time 1 there is
none: a margin that is just missed would make the next look, and so the margin, dearer by a third. A domain whose interval is
narrow enough once no round of it is to come is closed and gets no more faults. Its interval holds together with those of
its earlier looks, so whoever stops a campaign earlier, for whatever reason, has a valid interval too. Each domain's interval
covers its own rate with the wanted confidence; all of them together do so less often.

Estimates are unbiased though faults go where earlier rounds saw events, and though domains are closed when they are known:
see `weighing` for how rounds are put together, and `drafting` for how the next one is planned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from testbed.analysis.adaptive.drafting import RoundDraft, first_draft, next_draft, settled
from testbed.analysis.adaptive.looks import Looks
from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.weighing import WeighedRounds
from testbed.analysis.stratified import SamplingFrame, StratumTally, sample_rates
from testbed.core.arrays import Float64s

_EARLY = (
    0.7  # information time from which on a domain is not looked at before it can be closed: each look has its price
)


class Monitor:
    """Several campaigns of one design side by side (C of them; one, unless simulated). Arrays are (C, H) or (C, D).

    Alternate `additions` and `observe`. The intervals of the last look at each domain are ``low`` and ``high``, their
    confidence ``level``; ``rate`` is the estimate then.
    """

    def __init__(
        self, frame: SamplingFrame, rule: StopRule, campaigns: int = 1, deviation: Float64s | None = None
    ) -> None:
        """Takes guesses for the first round. deviation: (H,) guesses of the strata's standard deviations for the first
        round."""
        self.frame, self.rule, self.deviation = frame, rule, deviation
        shape = (campaigns, frame.domains)
        self.rounds = WeighedRounds.none_yet(frame, campaigns)
        self.looks = 0
        self.open: NDArray[np.bool_] = np.ones(shape, bool)
        self.met: NDArray[np.bool_] = np.zeros(shape, bool)
        self.rate, self.level = np.zeros(shape), np.zeros(shape)
        self.low, self.high = np.zeros(shape), np.ones(shape)
        self.history = [[Looks() for _ in range(frame.domains)] for _ in range(campaigns)]
        self._next: RoundDraft | None = None

    @property
    def tally(self) -> StratumTally:
        """What all rounds drew and saw together."""
        return self.rounds.tally

    @property
    def faults(self) -> Float64s:
        """(C,) drawn so far."""
        return self.tally.n.sum(-1)

    def additions(self) -> Float64s:
        """(C, H) whole numbers of faults to draw in the next round: none for closed domains."""
        return self._draft().additions

    def _draft(self) -> RoundDraft:
        """The next round, which follows from the rounds before."""
        if self._next is None:
            if self.looks == 0:
                self._next = first_draft(self.rounds, self.rule, self.deviation)
            else:
                self._next = next_draft(self.rounds, self.rule, self.open, self._closing_times(), self.looks)
            self.rounds = self._next.before
        return self._next

    def _closing_times(self) -> Float64s:
        """(C, D) information at which a domain's next look should close it."""
        wanted = np.ones(self.open.shape)
        for campaign, domain in zip(*np.nonzero(self.open), strict=True):
            wanted[campaign, domain] = self.history[campaign][domain].closing_time(self.rule)
        return wanted

    def observe(self, seen: StratumTally) -> None:
        """What the round's faults showed. Looks at every open domain."""
        frame, rule = self.frame, self.rule
        draft, self._next = self._draft(), None
        self.rounds = self.rounds.with_round(seen, np.where(seen.n > 0, draft.weight, 0))
        self.looks += 1
        sample = self.rounds.sample()
        aimed = sample_rates(frame, sample, rule.aimed_confidence)
        times = (rule.margin_at(aimed.rate) / np.maximum(aimed.half_width, 1e-9)) ** 2
        out = (self.faults + 1 > rule.max_faults) | (seen.n.sum(-1) == 0) | (self.looks >= rule.max_looks)
        known = frame.sums(frame.drawable - self.tally.n) <= 0
        looked = np.zeros_like(self.open)
        level = self.level.copy()
        done = settled(self.rounds)
        worth = (done & (times >= 1)) | out[:, None] | known | (times < _EARLY)
        for campaign, domain in zip(*np.nonzero(self.open & worth), strict=True):
            final = bool(out[campaign] or known[campaign, domain])
            critical = self.history[campaign][domain].critical_value(float(times[campaign, domain]), rule, final)
            if critical is not None:
                looked[campaign, domain] = True
                level[campaign, domain] = 2 * ndtr(critical) - 1
        now = sample_rates(frame, sample, np.where(looked, level, rule.aimed_confidence))
        for stored, new in ((self.rate, now.rate), (self.low, now.low), (self.high, now.high), (self.level, level)):
            stored[looked] = new[looked]
        met = looked & (((now.half_width <= rule.margin_at(now.rate)) & done) | known)
        self.met |= met
        self.open &= ~(met | out[:, None])
