"""``testbed protect tradeoff``: what it prints and writes, and the same from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import testbed
from testbed.protect.tradeoff.record import ProtectionTradeoff
from testbed.publish.tradeoff_figures import FIGURES, draw_hypothetical, draw_tradeoff, tradeoff_figure_bytes
from testbed.publish.tradeoff_files import write_weighed
from tests.protect.tradeoff.conftest import Campaigns
from tests.support.commands import answer, error_of, invoke

QUICK = ("--batch", "1", "--seconds", 0.05, "--runs", 8)
FILES = {
    *("tradeoff.json", "tradeoff.html", "latency.csv", "points.csv", "removals.csv", "curves.csv"),
    *(f"{name}.{form}" for name in FIGURES for form in ("svg", "png")),
}


def test_the_command_prints_and_writes_all_of_it(tradeoff_campaigns: Campaigns, tmp_path: Path) -> None:
    to = tmp_path / "picture"
    printed = answer("protect", "tradeoff", *tradeoff_campaigns, "--to", to, *QUICK)
    assert printed == json.loads((to / "tradeoff.json").read_text())
    assert {path.name for path in to.iterdir()} == FILES
    assert ProtectionTradeoff.model_validate(printed).to_json() == printed
    points = pd.read_csv(to / "points.csv")
    assert points["left.rate"].tolist() == pytest.approx([point["left"]["rate"] for point in printed["points"]])
    assert len(pd.read_csv(to / "removals.csv")) == len(printed["removals"])
    curves = pd.read_csv(to / "curves.csv")
    assert len(curves) == sum(len(curve["greedy"]) + len(curve["exact"]) for curve in printed["curves"])
    assert pd.read_csv(to / "latency.csv")["name"].tolist() == ["vit", "vit-guarded", "vit-checked"]
    page = (to / "tradeoff.html").read_text()
    assert printed["why"].split(";")[0] in page.replace("&#39;", "'")
    assert all(model["deployment_id"] in page for model in [printed["plain"], *printed["models"]])
    assert "://" not in page.replace("http://www.w3.org", "")  # pictures are in the page, and base64 may spell "http"


def test_it_says_the_same_to_people(tradeoff_campaigns: Campaigns, tmp_path: Path) -> None:
    done = invoke("protect", "tradeoff", *tradeoff_campaigns[:2], "--to", tmp_path / "a", *QUICK, "--budget", "1000%")
    assert done.exit_code == 0, done.output
    for part in ("flip in activations", "flip in weights", "vit-guarded", "was expected, its share at", "standing"):
        assert part in done.stdout


def test_python_gives_tables_of_it(tradeoff_campaigns: Campaigns) -> None:
    weighed = testbed.weigh_protection(tradeoff_campaigns[:2], batch=1, seconds=0.05, runs=8, budget=1000)
    assert set(weighed.points["model"]) == {"vit", "vit-guarded"}
    assert weighed.latency["ratio"].tolist()[0] == 1
    assert weighed.recommended in (None, "vit-guarded")
    assert weighed.why.endswith(".")
    assert {"expected.share", "removed.share", "why"} <= set(weighed.removals.columns)
    assert set(weighed.curves["choice"]) == {"greedy", "exact"}
    assert "vit-guarded" in weighed._repr_html_()


def test_mistakes_are_one_line_and_write_nothing(tradeoff_campaigns: Campaigns, tmp_path: Path) -> None:
    to = tmp_path / "to"
    plain, guarded, _ = tradeoff_campaigns
    assert "none of these is a campaign of a protected model" in error_of(
        invoke("protect", "tradeoff", plain, "--to", to), 2
    )
    assert "0" in error_of(invoke("protect", "tradeoff", plain, guarded, "--to", to, "--budget", "0%"), 2)
    assert "1 or more" in error_of(invoke("protect", "tradeoff", plain, guarded, "--to", to, "--batch", "0"), 2)
    assert "holds no" in error_of(invoke("protect", "tradeoff", plain, plain.with_name("vit"), "--to", to), 2)
    assert not to.exists()


def test_every_point_has_both_intervals_and_the_curves_are_drawn(weighed: ProtectionTradeoff) -> None:
    figure = draw_tradeoff(weighed)
    drawn = {axis.get_ylabel(): 0 for axis in figure.axes}
    for axis in figure.axes:
        for bars in axis.containers:
            assert bars.has_xerr  # type: ignore[attr-defined]
            assert bars.has_yerr  # type: ignore[attr-defined]
        drawn[axis.get_ylabel()] += len(axis.containers)
    assert drawn == {"SDC-1 left (%)": 5, "outside tolerance left (%)": 5}  # three models, then two without weights
    curves = draw_hypothetical(weighed).axes
    assert all(len(axis.collections) >= 2 for axis in curves)  # a band for each set of passes
    assert all(len(axis.containers) in (1, 2) for axis in curves)


def test_figures_are_the_same_bytes_and_the_page_has_them_for_both_backgrounds(
    weighed: ProtectionTradeoff, tmp_path: Path
) -> None:
    for name in FIGURES:
        first, again = (tradeoff_figure_bytes(weighed, name, "svg") for _ in range(2))
        assert first == again
        assert tradeoff_figure_bytes(weighed, name, "svg", dark=True) != first
    written = write_weighed(weighed, tmp_path / "to")
    assert {path.name for path in written} == FILES
    assert (tmp_path / "to" / "tradeoff.html").read_text().count("data:image/png;base64,") == 4
