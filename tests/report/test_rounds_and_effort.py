"""How sure the campaign became, and how its outputs were found: what the summary says of it, on the page."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.campaign.stop_facts import StopFacts
from testbed.campaign.summary.record import Summary
from testbed.core.errors import StaleArtefact
from testbed.report.charts.axis import LogAxis
from testbed.report.page import render
from testbed.report.read.evidence import Evidence, read_evidence
from testbed.report.sections.effort import effort
from testbed.report.sections.rounds import rounds, stop_verdict
from tests.report.test_figures import assert_legible, parsed

MODEL = {"target": "model", "where": "activation", "op": "flip", "pattern": "single", "scope": "inference"}


def domain(block: int | None, half_width: float, met: bool) -> dict[str, Any]:
    return {**MODEL, "block": block, "half_width": half_width, "met": met, "open": not met, "faults": 70}


def look(number: int, faults: int, seconds: float | None, widest: float, *widths: float) -> dict[str, Any]:
    domains = [domain(None if block == 0 else block, w, w < 0.02) for block, w in enumerate(widths)]
    told = {"round": number, "faults": faults, "seconds": seconds, "widest": widest}
    return {**told, "open": sum(d["open"] for d in domains), "domains": domains}


STOP = {
    "margin": 0.02,
    "confidence": None,
    "per": "block",
    "measure": "sdc1",
    "met": True,
    "history": [
        look(0, 487, 1.8, 0.053, 0.17, 0.13),
        look(1, 7620, 21.0, 0.027, 0.018, 0.037),
        look(2, 90000, 190.0, 0.016, 0.017, 0.016),
    ],
}
ALL = {"rows": 40, "share": 1.0}
EVALUATION = [
    {**MODEL, "rows": 60, "how": {"suffix": {"rows": 45, "share": 0.5}, "dead": {"rows": 15, "share": 0.5}}, "due": {}},
    {
        **MODEL,
        "pattern": "row",
        "rows": 40,
        "how": {"suffix": {"rows": 40, "share": 0.5}},
        "due": {"crash": {"rows": 2, "share": 0.5}},
    },
    {**MODEL, "where": "weight", "rows": 8, "how": {"whole": {"rows": 8, "share": 0.5}}, "due": {}},
]
WAYS = {"cut": {"rows": 29, "mismatches": 0}, "dead": {"rows": 43, "mismatches": 0}}
PROVEN = {
    "model": {
        "by": "suffix",
        "record": {
            "plan": {"last": True, "rows": False},
            "golden_images": 64,
            "golden_mismatches": 0,
            "rows": 72,
            "ways": WAYS,
        },
    },
    "model.weight": {"by": "whole", "why": "the spec asks for it"},
}


@pytest.fixture
def evidence(run_of: Callable[..., Path]) -> Evidence:
    return read_evidence(run_of())


def with_summary(evidence: Evidence, **values: Any) -> Evidence:
    return dataclasses.replace(evidence, summary=Summary.model_validate(evidence.summary.to_json() | values))


def text_of(markup: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", markup).split())


def test_a_fixed_campaign_shows_no_rounds(evidence: Evidence) -> None:
    assert rounds(evidence) is None
    assert 'id="rounds"' not in render(with_summary(evidence, stop=None), None)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (
            {"met": True},
            "reached after 3 rounds and 90,000 faults; widest: ±1.7 points of SDC-1 at 95 %, asked for ±2, ",
        ),
        ({"max_rounds": 3}, "not reached after 3 rounds and 90,000 faults: max_rounds = 3 came first; widest: "),
        ({"max_rounds": 9, "max_faults": 90_000}, "not reached after 3 rounds and 90,000 faults: max_faults = 90000 "),
        (
            {"max_rounds": 9},
            "not reached after 3 rounds and 90,000 faults: there were no more faults to draw; widest: ",
        ),
    ],
)
def test_the_stop_rule_s_verdict_is_a_line(limits: dict[str, Any], told: str) -> None:
    verdict = stop_verdict(StopFacts.model_validate(STOP | {"met": False, "max_faults": None} | limits), 0.95)
    assert verdict is not None
    assert verdict.startswith(told)
    assert verdict.endswith("model activation, flip, outside the blocks (70 faults)")
    assert stop_verdict(None, 0.95) is None


def test_rounds_show_the_widest_of_each(evidence: Evidence) -> None:
    found = rounds(with_summary(evidence, stop=STOP))
    assert found is not None
    assert [(one.held, one.widest) for one in found.looks] == [
        (0.17, "activation bit flips, outside the blocks"),
        (0.037, "activation bit flips, block 1"),
        (0.017, "activation bit flips, outside the blocks"),
    ]
    assert [one.open for one in found.looks] == [2, 1, 0]
    assert "Reached after 3 rounds and 90,000 faults" in found.introduction
    assert [figure.id for figure in found.figures] == ["rounds-faults", "rounds-time"]
    for figure in found.figures:
        drawing = parsed(figure.drawing)
        assert_legible(drawing)
        places = polyline(drawing, "held")
        assert places == sorted(places)
        margin = next(e for e in drawing.iter() if "margin" in str(e.get("class")))
        heights = [y for _, y in places]
        assert heights[0] < heights[1] < float(margin.get("y1", "")) < heights[2]  # y grows downwards


def polyline(drawing: ElementTree.Element, series: str) -> list[tuple[float, float]]:
    points = next(str(e.get("points")) for e in drawing.iter() if e.get("class") == f"line {series}")
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_no_time_where_it_is_not_known(evidence: Evidence) -> None:
    stop = copy.deepcopy(STOP)
    stop["met"], stop["history"][1]["seconds"] = False, None  # type: ignore[index]
    page = render(with_summary(evidence, stop=stop), None)
    assert 'id="rounds-faults"' in page
    assert 'id="rounds-time"' not in page
    assert "Not reached after 3 rounds" in page


def test_work_not_done_adds_fault_models_up(evidence: Evidence) -> None:
    failures = evidence.summary.failures.to_json() | {"losses": 1}
    found = effort(with_summary(evidence, evaluation=EVALUATION, evaluated_by=PROVEN, failures=failures))
    assert found.columns == ("model, activations", "model, weights")
    assert found.rows == (100, 8)
    assert {way.name: way.shares for way in found.ways} == {
        "whole network": (None, 1.0),
        "suffix": (0.85, None),
        "not run": (0.15, None),
    }
    assert found.dues == ("2 rows (1.9\u202f%) crashed the engine",)
    assert found.failures == ("1 worker lost, its work done again",)


def test_the_proofs_are_told(evidence: Evidence) -> None:
    page = text_of(render(with_summary(evidence, evaluation=EVALUATION, evaluated_by=PROVEN), None))
    assert "72 sampled faults by 2 ways, 43 of them taken for dead and run all the same: 0 differ" in page
    assert "Left off, as their bits differed or they gained nothing: rows." in page
    assert "model, weights Everything was run for every fault: the spec asks for it." in page
    assert json.dumps(PROVEN["model"]) not in page


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=6), st.floats(150, 500))
def test_a_logarithmic_axis_holds_its_values_in_order(values: list[float], length: float) -> None:
    axis = LogAxis.holding(values, length, "{:g}".format)
    assert axis.low <= min(values)
    assert max(values) <= axis.high
    places = [axis(value) for value in sorted(values)]
    assert places == sorted(places)
    assert axis(0.0) == 0
    ticks = [place for place, _ in axis.ticks(40)]
    assert len(ticks) >= 2
    assert all(later - earlier >= 40 - 1e-9 for earlier, later in pairwise(ticks))
    assert axis(axis.low * (axis.high / axis.low) ** 0.5) == pytest.approx(length / 2)


def test_a_gate_record_of_another_version_is_refused_by_name(evidence: Evidence) -> None:
    proven = {"model": {"by": "suffix", "record": {"of": "another version"}}}
    with pytest.raises(StaleArtefact, match=r"'model' is not of this version.*--redo gates"):
        effort(with_summary(evidence, evaluation=EVALUATION, evaluated_by=proven))
