"""Which tolerance a sweep says to deploy: one sentence for each place that was struck."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.core.outcome import EVENTS, Event
from testbed.core.words.bounds import at_least, at_most, percent_at_least, tolerance
from testbed.core.words.text import percent_interval
from testbed.sweep.points import AlarmPoint, DetectionRecord, detection_of
from testbed.sweep.record import SweepRecord, TierCurves


def deployed(swept: SweepRecord) -> Iterator[str]:
    """ "deploy atol 0.01 (rtol 1e-4) on model activations: flags 99.8 [99.2, 100.0] % of SDC-1 (flip), ..." """
    for target, where in dict.fromkeys((part.target, part.where) for part in swept.tiers):
        yield _sentence(swept, swept.whole(target, where))


def _sentence(swept: SweepRecord, part: TierCurves) -> str:
    """The advice in a sentence: of all images, of the place's first fault model: SDC-1 where there are classes, else
    any corruption."""
    event: Event = "any" if part.n_sdc1 is None else "sdc1"
    target = f"{part.target} {'activations' if part.where == 'activation' else 'weights'}"
    wanted = f"{100 * swept.wanted_detection:g} %"
    own = part.noise[0]
    floor, advice = swept.at_main(own.floors)[0], swept.at_main(part.recommended.of(event))[0]
    engine, most = own.source, f"{percent_at_least(floor.false_alarm_upper)} %"
    if floor.smallest_atol is None:
        return f"deploy no tolerance on {target}: at each one {engine} raises a false alarm"
    if advice.atol is not None and advice.feasible:
        deploy, detection, reason = (
            f"deploy atol {at_most(advice.atol)}",
            advice.detection,
            f"the largest that shows {wanted}",
        )
    else:
        why = advice.reason or f"{wanted} would take atol {at_most(advice.atol or 0)}"
        lowest = f"the smallest without a false alarm; {wanted} is not shown: {why}"
        deploy, detection, reason = (
            f"deploy atol {at_least(floor.smallest_atol)}",
            detection_of(floor, event),
            lowest,
        )
    flagged = "no such row" if detection is None else f"{percent(detection)} % of {EVENTS[event]} ({part.op}) flagged"
    return (
        f"{deploy} (rtol {tolerance(swept.rtol.main)}) on {target}: {flagged}, {reason}; false alarms of {engine} at"
        f" most {most}"
    )


def percent(rate: DetectionRecord | AlarmPoint) -> str:
    return percent_interval(rate.rate, rate.low, rate.high)
