"""Campaigns and studies from Python: the same results as the command line's, and tables for notebooks."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import testbed
from testbed.core.errors import UsageError
from tests.support.campaigns import TINY
from tests.support.commands import answer


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Iterator[testbed.Run]:
    with testbed.open_run(tiny_run) as opened:
        yield opened


def html_of(result: Any) -> str:
    text = str(result._repr_html_())
    assert text.count("<table>") == text.count("</table>") >= 1
    return text


# ---- specs


def test_a_spec_comes_from_a_file_a_name_values_or_a_spec(tiny_values: dict[str, Any]) -> None:
    spec = testbed.load_spec(TINY)
    assert spec == testbed.load_spec(str(TINY)) == testbed.load_spec(tiny_values) == testbed.load_spec(spec)
    assert spec == testbed.CampaignSpec(**tiny_values)
    assert testbed.load_spec("digits").name == "digits"


def test_changes_are_those_of_the_command_line_and_leave_the_callers_values_alone(tiny_values: dict[str, Any]) -> None:
    before = json.dumps(tiny_values)
    changes = ["engine.backend=openvino", "faults[0].per_stratum=7"]
    spec = testbed.load_spec(tiny_values, changes)
    assert (spec.engine.backend, spec.faults[0].per_stratum) == ("openvino", 7)
    assert json.dumps(tiny_values) == before
    assert testbed.load_spec(testbed.load_spec(TINY), changes) == testbed.load_spec(TINY, changes) == spec


@pytest.mark.parametrize(
    ("source", "line"),
    [("digitz", "digitz: no such file"), ({"name": "x"}, "model"), ({"nam": "x"}, "nam")],
)
def test_a_wrong_spec_is_told(source: Any, line: str) -> None:
    with pytest.raises(testbed.TestbedError, match=line):
        testbed.load_spec(source)


# ---- plan and run


def test_a_plan_is_the_command_lines(tiny_values: dict[str, Any]) -> None:
    plan = testbed.plan(tiny_values, by="block", margin=0.05)
    assert json.loads(json.dumps(plan.to_json())) == answer(
        "campaign", "plan", TINY, "--by", "block", "--margin", "0.05"
    )
    assert plan.parts.drawn.sum() == plan.totals.drawn.faults
    assert f"{plan.totals.drawn.faults:,} faults" in html_of(plan)


def test_a_campaign_runs_with_progress_and_is_the_same_campaign(
    tiny_values: dict[str, Any], tiny_run: Path, tmp_path: Path
) -> None:
    snapshots: list[testbed.Snapshot] = []
    with testbed.run(tiny_values, tmp_path / "run", workers=0, progress=snapshots.append) as run:
        assert snapshots[-1].faults_done == snapshots[-1].faults == run.summary.faults
        with testbed.open_run(tiny_run) as other:
            assert run.summary.marginals == other.summary.marginals
    assert (tmp_path / "run" / "report.html").is_file()


def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown engine"):
        testbed.run(testbed.load_spec(TINY, ["engine.backend=ort-cup"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_bar_that_nobody_sees_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with testbed.ProgressBar() as bar:
        bar(testbed.Snapshot("execute", 1, 0, 10, 0, None, None, {}, None, 1, ""))
    assert capsys.readouterr() == ("", "")


# ---- a run


def test_a_run_shows_itself(run: testbed.Run, tiny_run: Path) -> None:
    assert repr(run) == f"<testbed.Run 'tiny' in '{tiny_run}'>"
    text = html_of(run)
    assert run.summary.statement in text
    total = next(m for m in run.summary.marginals if m.by == "all" and m.rate("sdc1"))
    rate = total.rate("sdc1")
    assert rate is not None
    assert f"{100 * rate.rate:.2f} [" in text


def test_a_run_that_is_not_finished_says_so(gated: Path) -> None:
    with testbed.open_run(gated) as run:
        assert "not finished" in html_of(run)
        with pytest.raises(testbed.TestbedError):
            run.summary  # noqa: B018


def test_nothing_in_a_name_is_taken_for_markup() -> None:
    from testbed.api.records import BitErrorSweep
    from testbed.ber.record import BitErrorRecord

    record = _bit_errors("<b>x</b>")
    assert "<b>" not in BitErrorSweep(record, BitErrorRecord.model_validate(record))._repr_html_()


def _bit_errors(name: str) -> dict[str, Any]:
    share = {"rate": 0.5, "low": 0.25, "high": 0.75, "high_95": 0.7, "high_99": 0.8, "per_repeat": [0.5, 0.5]}
    rate = {"rate": 1e-6, "flips": {"mean": 2.0, "least": 2, "most": 2}, "accuracy": share, "sdc1": share}
    engine = {"backend": "ort-cpu", "precision": "fp32", "batch": 8, "hash": "0", "deployment_id": "1", "options": {}}
    asked = {"sites": ["head.bias"], "bits": 64, "repeats": 2, "seed": 1, "confidence": 0.95}
    images = {"left_out": [], "classes": {"0": 8}, "images": 8, "accuracy": 0.5}
    return {"name": name, "engine": engine, **images, **asked, "rates": [rate | {"nonfinite": share}]}


# ---- studies


def test_a_tolerance_sweep_is_the_command_lines(tiny_copy: Path, tmp_path: Path) -> None:
    counted: list[testbed.Snapshot] = []
    atol = [1e-3, 1e-6]
    sweep = testbed.sweep_tolerances(tiny_copy, atol=atol, noise=["ort-cpu@1"], progress=counted.append)
    to = tmp_path / "grid.csv"
    record = answer("sweep", tiny_copy, "--atol", "1e-6,1e-3", "--noise", "ort-cpu@1", "--to", to)
    assert json.loads(json.dumps(sweep.to_json())) == record
    pd.testing.assert_frame_equal(sweep.grid, pd.read_csv(to, na_values=[]), check_dtype=False)
    assert counted[-1].steps is not None
    assert counted[-1].steps.done == counted[-1].steps.total
    assert "ort-cpu" in html_of(sweep)
    assert len(sweep.false_alarms) == len(record["false_alarms"])
    assert sweep.content.tiers[0].grid[0].false_alarm.rate == record["tiers"][0]["grid"][0]["false_alarm"]["rate"]


def test_bit_errors_of_a_run(tiny_copy: Path) -> None:
    sweep = testbed.sweep_bit_errors(tiny_copy, rates=[1e-5], repeats=2, images=50)
    record = answer("campaign", "ber", tiny_copy, "--rates", "1e-5", "--repeats", "2", "--images", "50")
    assert json.loads(json.dumps(sweep.to_json())) == record
    (row,) = sweep.rates.to_dict("records")
    assert row["accuracy"] == record["rates"][0]["accuracy"]["rate"]
    assert "1e-05" in html_of(sweep)


def test_two_runs_side_by_side(tiny_run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_run, tmp_path / "other")
    comparison = testbed.compare_runs(tiny_run, other)
    assert comparison.mode == "engines"
    assert set(comparison.headline.side) == {"a", "b"}
    assert len(comparison.differences) == 0
    a, b = (comparison.headline[comparison.headline.side == side].drop(columns="side") for side in "ab")
    np.testing.assert_array_equal(a.rate, b.rate)
    assert "A and B" in html_of(comparison)


def test_the_page_is_written_again(tiny_copy: Path) -> None:
    assert not (tiny_copy / "report.html").exists()
    assert testbed.write_report(tiny_copy) == tiny_copy / "report.html"
    assert (tiny_copy / "report.html").stat().st_size > 1000


# ---- several runs


def test_several_runs_in_one_table_and_figure(run: testbed.Run, tiny_copy: Path, tmp_path: Path) -> None:
    rates = testbed.gather_rates([run, tiny_copy], by="block", ops=["flip"])
    assert set(rates.run) == {str(run.path), str(tiny_copy)}
    assert testbed.draw_figures([run], tmp_path, by=["block"], form="png") == [tmp_path / "rates-by-block.png"]
    (entry,) = testbed.list_runs(tiny_copy.parent).to_dict("records")
    assert (entry["run"], entry["engine"]) == (str(tiny_copy), "ort-cpu")


# ---- models


def test_rankings_pruning_and_latency(tiny_run: Path, tmp_path: Path) -> None:
    ranking = testbed.rank_components(tiny_run, by="eap", of="head", images=20)
    record = answer("rank", tiny_run, "--by", "eap", "--of", "head", "--images", "20")
    assert ranking.to_json() == record
    assert ranking.scores.score.is_monotonic_decreasing
    assert list(ranking.scores["rank"]) == [1, 2]
    html_of(ranking)

    pruned = testbed.prune_model(tiny_run, tmp_path / "half", method="eap", amount=0.5, images=20)
    assert (tmp_path / "half" / "manifest.json").is_file()
    assert pruned.models.macs[0] < pruned.models.macs_before[0]
    html_of(pruned)

    latency = testbed.bench_models([tiny_run, tmp_path / "half"], batch=1, seconds=0.01, runs=6, baseline=tiny_run)
    assert list(latency.table.model) == [str(tiny_run), str(tmp_path / "half")]
    assert latency.table.ratio.notna().all()
    assert re.search(r"ort-cpu, fp32", html_of(latency))


def test_a_ranking_is_held_against_a_campaign(tiny_run: Path) -> None:
    validation = testbed.validate_ranking(tiny_run, tiny_run, of="chunk", methods=["eap"], images=20, chunks=4)
    (row,) = validation.correlations.to_dict("records")
    assert row["by"] == "eap"
    assert isinstance(row["verdict"], str)
    assert {"component", "rate"} <= set(validation.measured)
    html_of(validation)


def test_models_are_asked_for() -> None:
    with pytest.raises(UsageError, match="name one model"):
        testbed.bench_models([])
