"""What the figures of a tolerance sweep share: its rates, tiers and fault models by name, and the lines across a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from testbed.core.words.bounds import at_least, tolerance
from testbed.report.charts.curve import Rule
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import model_name
from testbed.sweep.points import AlarmRate, DetectionRecord, FloorPoint, TierNoise
from testbed.sweep.record import ModuleFloor, ModuleNoise, SweepRecord, SweptModel


@dataclass(frozen=True)
class Table:
    """``notes``: of each row, what pointing at it says."""

    id: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def estimate(record: DetectionRecord) -> RateEstimate:
    return RateEstimate(record.rate, record.low, record.high, record.faults, record.n)


def alarm_estimate(record: AlarmRate) -> RateEstimate:
    """A rate of images of a fault-free engine, which are no faults."""
    return RateEstimate(record.rate, record.low, record.high, 0, record.n)


def title_of(part: SweptModel) -> str:
    return f"{part.target.capitalize()}, {part.where}s, {named(part)}"


def named(part: SweptModel) -> str:
    return model_name(part.op)


def tier_name(swept: SweepRecord, tier: int | None) -> str:
    return "all images" if tier is None else f"margin {swept.tier_interval(tier)}"


def floor_of(swept: SweepRecord, source: TierNoise | ModuleNoise) -> float:
    """Smallest absolute tolerance without a false alarm; infinite where none is large enough."""
    floors: Sequence[FloorPoint | ModuleFloor] = source.floors
    atol = swept.at_main(floors)[0].smallest_atol
    return float("inf") if atol is None else atol


def own_rules(swept: SweepRecord) -> Iterator[Rule]:
    if swept.tolerance.rtol == swept.rtol.main:
        for atol in dict.fromkeys(swept.tolerance.atol):
            yield Rule(f"the campaign's tolerance, atol {tolerance(atol)}", "margin", x=atol)


def floor_rules(swept: SweepRecord, sources: Sequence[TierNoise | ModuleNoise]) -> Iterator[Rule]:
    for number, source in enumerate(sources):
        floor = floor_of(swept, source)
        if 0 < floor < float("inf"):
            tooltip = f"no false alarm of {source.source} from atol {at_least(floor)}"
            yield Rule(tooltip, "other" if number else "floor", x=floor)
