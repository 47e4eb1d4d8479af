"""A tolerance sweep on the page: what it found, to the digit, and only while it is of these very results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.errors import StaleArtefact
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.report import build_report
from testbed.report.charts.axis import RateAxis
from testbed.report.charts.curve import PlotFrame
from testbed.report.charts.roc import Level, Panel, Rule, by_tolerance, roc_panels
from testbed.report.estimate import RateEstimate
from testbed.report.stage import report_stage
from testbed.sweep.record import SweepRecord
from tests.report.test_figures import assert_legible, boxes, drawings, parsed
from tests.support.report_pages import Page, assert_shown

SOURCES = ("ort-cpu fp32, batch 64", "ort-cpu fp16, batch 64")
FLOORS = {SOURCES[0]: 3.4567e-7, SOURCES[1]: 2.1e-3}
ATOLS = (1e-8, 3e-8, 1e-6, 1e-4, 1.0)


def told(value: float, n: int = 200) -> dict[str, Any]:
    return {"rate": value, "low": max(0.0, value - 0.04), "high": min(1.0, value + 0.03), "n": n, "faults": n}


def engine(source: str) -> dict[str, Any]:
    precision = source.split()[1].rstrip(",")
    arithmetic = "fp32" if source == SOURCES[0] else "emulated in fp32"
    named = {"engine": "ort-cpu", "precision": precision, "batch": 64, "file": "plain"}
    return {"source": source, **named, "arithmetic": arithmetic, "engine_hash": "0123"}


def part(target: str, where: str, tier: int | None) -> dict[str, Any]:
    shift = 0.01 * (0 if tier is None else 1 + tier)
    events = ["sdc1", "any"] if target == "model" else ["any"]
    detected = {"any": told(0.6 - shift), "sdc1": told(0.9 - shift) if target == "model" else None}
    noise = [
        {
            **engine(source),
            "n": 64,
            "floors": [
                {"rtol": rtol, "smallest_atol": floor * factor, "false_alarm_upper": 0.046}
                | {f"detection_{event}": found for event, found in detected.items()}
                for rtol, factor in ((0.0, 9.0), (1e-4, 1.0))
            ],
        }
        for source, floor in FLOORS.items()
    ]
    advice = {"rtol": 1e-4, "atol": 1.239e-6, "detection": told(0.99), "no_alarm_atol": 3.4567e-7, "feasible": True}
    advice |= {"reason": None}
    missing = advice | {"atol": None, "feasible": False, "reason": "even at atol 0 only 60 % are flagged"}
    return {
        "target": target,
        "where": where,
        "op": "flip",
        "pattern": "single",
        "scope": "inference" if where == "activation" else "persistent",
        "tier": tier,
        "n_rows": 500,
        "n_faults": 500,
        "n_sdc1": 200 if target == "model" else None,
        "n_corrupted": 300,
        "n_ended": 0,
        "reasons": {} if target == "model" else {"sdc1": "outputs of this target have no classes"},
        "noise": noise,
        "grid": [
            {"atol": atol, "rtol": rtol, "false_alarm": {"rate": 0.0, "low": 0.0, "high": 0.05, "n": 64}}
            | {
                f"detection_{event}": None if found is None else told(found["rate"] - 0.05 * number)
                for event, found in detected.items()
            }
            for rtol in (0.0, 1e-4)
            for number, atol in enumerate(ATOLS)
        ],
        "roc": [
            {
                "source": source,
                "rtol": 1e-4,
                "points": [
                    {"atol": floor, "false_alarm": 0.0, **detected},
                    {"atol": 0.0, "false_alarm": 0.5, **detected},
                ],
            }
            for source, floor in FLOORS.items()
        ],
        "auc": {
            event: [
                {"event": event, "tier": tier, "source": source, "rtol": 1e-4}
                | {"auc": 0.8123, "low": 0.79, "high": 0.83, "n": 300, "faults": 290}
                for source in SOURCES
            ]
            if event in events
            else []
            for event in ("sdc1", "any")
        },
        "recommended": {"wanted": 0.99, "sdc1": [advice], "any": [missing]},
    }


def linked(tier: int | None) -> dict[str, Any]:
    rates = {"sensitivity": told(0.93), "specificity": told(0.41), "ppv": told(0.12), "npv": None}
    model = {"target": "model", "where": "activation", "op": "flip", "pattern": "single", "scope": "inference"}
    grid = [{"atol": atol, "rtol": rtol, **rates} for rtol in (0.0, 1e-4) for atol in ATOLS]
    return {**model, "tier": tier, "n_rows": 90, "n_faults": 90, "n_sdc1": 17, "grid": grid}


def swept(link: bool) -> dict[str, Any]:
    target_places = [("model", "activation"), ("model", "weight"), ("attention", "activation")]
    facts = {
        "module": "block.0.attn",
        "output": "block.0.attn.proj",
        "limit": None,
        "sites": ["block.0.attn.q"],
        "faults": 90,
        "rows": 90,
        "ended": 0,
        "checked": 9,
        "evaluated": "prefix",
    }
    return {
        "name": "tiny",
        "version": 1,
        "confidence": 0.95,
        "wanted_detection": 0.99,
        "tolerance": {"atol": [1e-4] * 4, "rtol": 1e-4, "rtol_grid": [0.0, 1e-4]},
        "atol": None,
        "rtol": {"swept": [0.0, 1e-4], "main": 1e-4},
        "tier_edges": [{"tier": t, "low": t / 4, "high": (t + 1) / 4} for t in range(4)],
        "goldens": {"false_alarm": "the reference", "detection": "the engine golden", "link": "its own"},
        "definitions": {},
        "sources": [{"target": "model", **engine(source), "n": 64, "other_top1": 0} for source in SOURCES],
        "notes": [],
        "false_alarms": [],
        "tiers": [part(*target_place, tier) for target_place in target_places for tier in (None, *range(4))],
        "link": facts | {"models": [linked(t) for t in (None, *range(4))], "noise": []} if link else None,
    }


def add_sweep(run_copy: Path, link: bool = True) -> None:
    """As `testbed sweep` leaves it."""
    (run_copy / "sweep.json").write_text(json.dumps(SweepRecord.model_validate(swept(link)).to_json()))
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["stages"]["sweep"] = {
        "inputs": {"results": manifest["stages"]["execute"]["outputs"]["results.parquet"]},
        "outputs": {"sweep.json": sha256_file(run_copy / "sweep.json")},
        "facts": {},
        "seconds": 1.0,
        "command": "testbed sweep",
    }
    (run_copy / "manifest.json").write_text(json.dumps(checksummed(manifest)))


@pytest.fixture
def page(run_copy: Path) -> Page:
    add_sweep(run_copy)
    return Page(build_report(run_copy))


def test_a_run_without_a_sweep_names_the_command(run_copy: Path) -> None:
    page = Page(build_report(run_copy))
    assert "Not swept yet: testbed sweep DIR" in page.text
    assert not [name for name in page.tables if name.startswith(("floors", "roc"))]


def test_tolerances_and_floors(page: Page) -> None:
    header, own, other = page.tables["floors-model"]
    assert header[2:7] == [
        "all images",
        "margin [0, 0.25]",
        "margin (0.25, 0.5]",
        "margin (0.5, 0.75]",
        "margin (0.75, 1]",
    ]
    assert own == [SOURCES[0], "64", *["3.46e-7"] * 5, "4.6\u202f%"]  # a printed floor is none below the floor
    assert other[:3] == [f"{SOURCES[1]} (emulated in fp32)", "64", "0.0021"]
    first = page.tables["advice-model-activation"][1]
    assert (first[0], first[1], first[3], first[5]) == ("all images", "3.46e-7", "1.23e-6", "out of reach")
    rate, interval = first[2].split(" ")
    assert_shown(rate, interval, told(0.9))
    assert len(page.tables["advice-attention-activation"][0]) == 4  # it has no classes
    notes = [str(attributes["title"]) for tag, attributes in page.tags if tag == "tr" and "title" in attributes]
    assert "any corruption: even at atol 0 only 60 % are flagged" in notes


def test_curves_are_the_sweeps(page: Page) -> None:
    areas = page.tables["roc-model-weight"]
    assert len(areas) == 1 + 5 * 2 * len(SOURCES)
    assert areas[1][:2] == ["all images", f"area, SDC-1, {SOURCES[0]}"]
    assert_shown(areas[1][2], areas[1][3], {"rate": 0.8123, "low": 0.79, "high": 0.83})
    flagged = [line for line in page.tables["detection-model-activation"] if line[:2] == ["atol 1e-4", "SDC-1 flagged"]]
    assert len(flagged) == 1  # of the campaign's rtol alone
    assert_shown(flagged[0][2], flagged[0][3], told(0.75))
    assert f"thin: against {SOURCES[1]}, the noisiest" in page.text


def test_the_link_is_told_where_it_was_followed(run_copy: Path, page: Page) -> None:
    assert "90 faults inside block.0.attn were followed from block.0.attn.proj" in page.text
    atols = [line[0] for line in page.tables["link-grid"][1:]]
    assert atols == ["1e-8", "1e-6", "1e-4", "1"]  # powers of ten, and the campaign's own
    tiers = page.tables["link-tiers"][1:]
    assert [line[1:3] for line in tiers] == [["1e-4", "17"]] * 5
    rate, interval = tiers[0][3].split(" ")
    assert_shown(rate, interval, told(0.93))
    assert tiers[0][6] == "no such row"
    add_sweep(run_copy, link=False)
    assert "first attention module?" not in Page(build_report(run_copy)).text


def test_drawings_of_the_page_are_legible(run_copy: Path) -> None:
    add_sweep(run_copy)
    found = drawings(build_report(run_copy))
    labels = [str(drawing.get("aria-label")) for drawing in found]
    assert sum(label.startswith("ROC per tier") for label in labels) == 3
    assert sum(label.startswith("Flagged by tolerance") for label in labels) == 3
    assert any(label.startswith("Module's output out of tolerance") for label in labels)
    for drawing in found:
        assert_legible(drawing)


def test_a_sweep_of_other_results_is_not_shown(run_copy: Path) -> None:
    add_sweep(run_copy)
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["stages"]["sweep"]["inputs"]["results"] = "other"
    (run_copy / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    assert "Not swept yet" in Page(build_report(run_copy)).text


def test_an_edited_sweep_is_refused(run_copy: Path) -> None:
    add_sweep(run_copy)
    (run_copy / "sweep.json").write_text("{}")
    with pytest.raises(StaleArtefact, match=r"sweep\.json was edited.*testbed sweep"):
        build_report(run_copy)


def test_a_new_sweep_makes_the_page_again(run_copy: Path) -> None:
    report_stage(run_copy)
    before = (run_copy / "report.html").read_bytes()
    add_sweep(run_copy)
    report_stage(run_copy)
    after = (run_copy / "report.html").read_bytes()
    assert b"roc-model-activation" not in before
    assert b"roc-model-activation" in after
    report_stage(run_copy)
    assert (run_copy / "report.html").read_bytes() == after
    add_sweep(run_copy, link=False)
    report_stage(run_copy)
    assert b"link-tiers" not in (run_copy / "report.html").read_bytes()


def test_a_curve_goes_through_its_points() -> None:
    levels = [Level(1e-3, 0.0, RateEstimate(0.5, 0.4, 0.6, 9, 9)), Level(0.0, 0.25, RateEstimate(0.75, 0.7, 0.8, 9, 9))]
    drawing = parsed(roc_panels([Panel("all images", {"any": levels}, {})], {"any": "any corruption"}, "label"))
    line = next(str(e.get("points")) for e in drawing.iter() if e.get("class") == "line any")
    frame = PlotFrame(RateAxis(1.0, 138), RateAxis(1.0, 138), 138, 138, top=20)
    expected = [frame.position(x, y) for x, y in ((0, 0), (0, 0.5), (0.25, 0.75), (1, 1))]
    assert [tuple(map(float, pair.split(","))) for pair in line.split()] == expected
    titles = [str(title.text) for title in drawing.iter() if title.tag.endswith("title")]
    assert any(
        re.match(r"any corruption at atol 0: 75\.0 % \[70\.0, 80\.0\] detected, false alarms 25 %", t)
        for t in (title.replace("\u202f", " ").replace("\u00a0", " ") for title in titles)
    )


@given(st.integers(1, 11))
def test_any_number_of_tiers_is_legible(tiers: int) -> None:
    levels = [Level(1e-3, 0.0, RateEstimate(0.5, 0.4, 0.6, 9, 9))]
    panels = [Panel(f"margin (0.{n}25, 0.{n}75]", {"any": levels, "sdc1": []}, {"any": levels}) for n in range(tiers)]
    drawing = parsed(roc_panels(panels, {"any": "any corruption", "sdc1": "SDC-1"}, "label"))
    assert_legible(drawing)
    assert sum(text.startswith("margin") for text, _ in boxes(drawing)) == tiers


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8, unique=True))
def test_any_tolerances_are_legible(atols: list[float]) -> None:
    series = {"any": [(atol, RateEstimate(0.5, 0.4, 0.6, 9, 9)) for atol in sorted(atols)]}
    rules = [Rule("own", "margin", x=max(atols))]
    assert_legible(parsed(by_tolerance(series, rules, {"any": "any corruption flagged"}, "label")))
