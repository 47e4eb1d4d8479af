"""Which evaluation a campaign uses for a target: the fastest of those that its gates proved on this engine."""

from __future__ import annotations

from testbed.campaign.bench import Bench
from testbed.campaign.evaluation import Evaluator
from testbed.campaign.whole import WholeTwin
from testbed.campaign.workplace import Workplace


def evaluator_for(place: Workplace, bench: Bench) -> Evaluator:
    return WholeTwin(bench)
