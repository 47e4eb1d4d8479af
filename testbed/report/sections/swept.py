"""What the figures of a tolerance sweep share: its rates, tiers and fault models by name, and the lines across a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.analysis.outputs.confidence import interval_name
from testbed.core.fault import FaultModel
from testbed.core.words.bounds import at_least, tolerance
from testbed.report.charts.curve import Rule
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import model_name

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """``notes``: of each row, what pointing at it says."""

    id: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def estimate(record: Record, value: str = "rate") -> RateEstimate:
    """A rate that the sweep records. ``n``: rows, or images of a fault-free engine, which are no faults."""
    return RateEstimate(record[value], record["low"], record["high"], record.get("faults", 0), record["n"])


def at_main(swept: Record, records: Sequence[Record]) -> list[Record]:
    """Those at the relative tolerance that the figures are of."""
    return [record for record in records if record["rtol"] == swept["rtol"]["main"]]


def fault_model(part: Record) -> FaultModel:
    return FaultModel(*(part[name] for name in FaultModel._fields))


def title_of(part: Record) -> str:
    return f"{part['target'].capitalize()}, {part['where']}s, {named(part)}"


def named(part: Record) -> str:
    return model_name(part["op"])


def tier_name(swept: Record, tier: int | None) -> str:
    if tier is None:
        return "all images"
    edges = swept["tier_edges"][tier]
    return f"margin {interval_name(edges['low'], edges['high'])}"


def floor_of(swept: Record, source: Record) -> float:
    """Smallest absolute tolerance without a false alarm; infinite where none is large enough."""
    atol = at_main(swept, source["floors"])[0]["smallest_atol"]
    return float("inf") if atol is None else float(atol)


def own_rules(swept: Record) -> Iterator[Rule]:
    if swept["tolerance"]["rtol"] == swept["rtol"]["main"]:
        for atol in dict.fromkeys(swept["tolerance"]["atol"]):
            yield Rule(f"the campaign's tolerance, atol {tolerance(atol)}", "margin", x=atol)


def floor_rules(swept: Record, sources: Sequence[Record]) -> Iterator[Rule]:
    for number, source in enumerate(sources):
        floor = floor_of(swept, source)
        if 0 < floor < float("inf"):
            tooltip = f"no false alarm of {source['source']} from atol {at_least(floor)}"
            yield Rule(tooltip, "other" if number else "floor", x=floor)
