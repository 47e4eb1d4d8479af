"""How boldly rounds are planned: what a campaign makes of the little that it knows at first.

A round drawn too early counts for little, one drawn too late is larger than it need be, and a margin that is missed after
the last round costs another. What is best was searched for on populations that are known (`tools/check_estimates.py`), apart
for margins that are a share of the rate and for absolute ones, where events are fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from testbed.analysis.adaptive.rule import StopRule


@dataclass(frozen=True)
class Pace:
    """How rounds are planned.

    pilot_share: faults of the first round, of those without which no margin is reached. caution: a round's share is less by
    a factor of 1 + this / sqrt(1 + events), as fewer events tell less of what is needed. most_weight: of what is left, for a
    round that is not the last. least_borrowed: faults' worth of what classes that are alike show, added to a class's own.
    telling: events that make the variance seen in a class count as much as the guess. dear: faults, of those drawn, that
    another round may cost before a domain that is opened again gives up more weight for it: what is given up is bias.
    """

    pilot_share: float
    caution: float
    most_weight: float
    least_borrowed: float
    telling: float
    dear: float


_ABSOLUTE = Pace(pilot_share=1 / 8, caution=1.0, most_weight=0.5, least_borrowed=3.0, telling=10.0, dear=3.0)
_RELATIVE = Pace(pilot_share=1 / 16, caution=0.1, most_weight=0.5, least_borrowed=1.0, telling=10.0, dear=0.3)


def pace_of(rule: StopRule) -> Pace:
    return _RELATIVE if rule.relative else _ABSOLUTE
