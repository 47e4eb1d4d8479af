"""Which tolerance a sweep says to deploy: one sentence for each place that was struck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from testbed.core.outcome import EVENTS
from testbed.core.words.bounds import at_least, at_most, percent_at_least, tolerance

Record = Mapping[str, Any]


def deployed(swept: Record) -> Iterator[str]:
    """ "deploy atol 0.01 (rtol 1e-4) on model activations: flags 99.8 [99.2, 100.0] % of SDC-1 (flip), ..." """
    for target, where in dict.fromkeys((part["target"], part["where"]) for part in swept["tiers"]):
        part = next(p for p in swept["tiers"] if (p["target"], p["where"], p["tier"]) == (target, where, None))
        yield _sentence(swept, part)


def _sentence(swept: Record, part: Record) -> str:
    """The advice in a sentence: of all images, of the place's first fault model: SDC-1 where there are classes, else
    any corruption."""
    event = "any" if part["n_sdc1"] is None else "sdc1"
    target = f"{part['target']} {'activations' if part['where'] == 'activation' else 'weights'}"
    wanted = f"{100 * swept['wanted_detection']:g} %"
    floor, advice = (_at_main(swept, records) for records in (part["noise"][0]["floors"], part["recommended"][event]))
    engine, most = part["noise"][0]["source"], f"{percent_at_least(floor['false_alarm_upper'])} %"
    if floor["smallest_atol"] is None:
        return f"deploy no tolerance on {target}: at each one {engine} raises a false alarm"
    if advice["atol"] is not None and advice["feasible"]:
        deploy, detection, reason = (
            f"deploy atol {at_most(advice['atol'])}",
            advice["detection"],
            f"the largest that shows {wanted}",
        )
    else:
        why = advice["reason"] or f"{wanted} would take atol {at_most(advice['atol'] or 0)}"
        lowest = f"the smallest without a false alarm; {wanted} is not shown: {why}"
        deploy, detection, reason = (
            f"deploy atol {at_least(floor['smallest_atol'])}",
            floor[f"detection_{event}"],
            lowest,
        )
    flagged = (
        "no such row" if detection is None else f"{percent(detection)} % of {EVENTS[event]} ({part['op']}) flagged"
    )
    return (
        f"{deploy} (rtol {tolerance(swept['rtol']['main'])}) on {target}: {flagged}, {reason}; false alarms of {engine} at most"
        f" {most}"
    )


def _at_main(swept: Record, records: Any) -> Record:
    main: Record = next(record for record in records if record["rtol"] == swept["rtol"]["main"])
    return main


def percent(rate: Record) -> str:
    return f"{100 * rate['rate']:.2f} [{100 * rate['low']:.2f}, {100 * rate['high']:.2f}]"
