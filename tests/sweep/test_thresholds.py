"""ROC curves, their areas and the advised tolerances, against scikit-learn and the stored rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import testbed
from tests.support.sweeps import part_of, plain_deviation, stored_rows, swept


def test_areas_are_scikit_learns(swept_run: Path, result: dict[str, Any]) -> None:
    rows = stored_rows(swept_run)
    rows = rows[(rows.target == "model") & (rows["where"] == "activation") & (rows.op == "flip") & (rows.tier == 1)]
    with testbed.open_run(swept_run) as run:
        clean = plain_deviation(run, run.workplace.images.tiers == 1, 1e-4)
    for event, which in (("sdc1", rows.top1_faulty != rows.top1_golden), ("any", rows.outcome != "identical")):
        scores = np.minimum(np.stack(rows.masking_atol.tolist())[which, 3], 1e99)
        expected = roc_auc_score(
            [1] * len(scores) + [0] * len(clean),
            [*scores, *clean],
            sample_weight=[*rows.weight[which], *np.ones(len(clean))],
        )
        (area,) = [
            a for a in part_of(result, 1)["auc"][event] if a["rtol"] == 1e-4 and a["source"].endswith("batch 16")
        ]
        assert area["auc"] == pytest.approx(expected, abs=1e-8)
        assert area["low"] <= area["auc"] <= area["high"]
        assert area["n"] == which.sum()


def test_roc_points_step_where_a_clean_image_alarms(result: dict[str, Any]) -> None:
    part = part_of(result)
    for curve in part["roc"]:
        assert curve["rtol"] == 1e-4
        alarms = [point["false_alarm"] for point in curve["points"]]
        assert alarms[0] == 0
        assert alarms == sorted(alarms)
        detected = [point["any"]["rate"] for point in curve["points"]]
        assert detected == sorted(detected)


def test_the_advised_tolerance_detects_as_much_as_was_asked_for_and_the_next_does_not(swept_run: Path) -> None:
    part = part_of(swept(swept_run, detect=0.4))
    advised = [a for a in part["recommended"]["any"] if a["atol"]]
    assert advised
    for advice in advised:
        atol, rtol = advice["atol"], advice["rtol"]
        here = part_of(swept(swept_run, atol=(atol, float(np.nextafter(atol, 1))), rtol=(rtol,)))
        at, beyond = [point["detection_any"] for point in here["grid"]]
        assert at == advice["detection"]
        assert at["low"] >= 0.4 > beyond["low"]
        assert advice["feasible"] == (advice["no_alarm_atol"] <= atol)


def test_out_of_reach_and_too_few_are_told_apart(swept_run: Path) -> None:
    part = part_of(swept(swept_run, detect=0.99))
    assert {a["atol"] for event in ("sdc1", "any") for a in part["recommended"][event]} == {None}
    assert "too few to show 99 %" in part["recommended"]["sdc1"][0]["reason"]
    assert "even at atol 0 only" in part["recommended"]["any"][-1]["reason"]
