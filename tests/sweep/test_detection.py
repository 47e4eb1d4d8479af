"""Rates of detection, SDC-1 and crashes over a grid of tolerances, against an independent computation from the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import testbed
from tests.support.sweeps import GRID, part_of, rewrite, stored_rows, swept


@pytest.mark.parametrize("tier", [None, 0, 1])
@pytest.mark.parametrize("op", ["flip", "random"])
def test_detection_is_the_weighted_share_of_outputs_outside(
    swept_run: Path, result: dict[str, Any], tier: int | None, op: str
) -> None:
    """Outside is asked of the stored logits again, by NumPy; weights are put together by hand."""
    rows = stored_rows(swept_run)
    rows = rows[(rows.target == "model") & (rows["where"] == "activation") & (rows.op == op)]
    rows = rows if tier is None else rows[rows.tier == tier]
    with testbed.open_run(swept_run) as run:
        golden = dict(zip(run.image_ids, run.workplace.engine("model", "activation").golden, strict=True))
    with np.errstate(invalid="ignore"):  # signalling NaN
        faulty = np.stack(rows.logits.tolist()).astype(np.float64)
    right = np.stack([golden[image] for image in rows.image_id]).astype(np.float64)
    changed = (faulty.argmax(1) != right.argmax(1)) | np.isnan(faulty).any(1)
    differs = np.not_equal(np.stack(rows.logits.tolist()).view(np.uint32), right.astype(np.float32).view(np.uint32))
    corrupted = np.asarray(differs.any(1))
    part = part_of(result, tier, op=op)
    assert (part["n_rows"], part["n_sdc1"], part["n_corrupted"]) == (len(rows), changed.sum(), corrupted.sum())
    assert len(part["grid"]) == 6 * len(GRID)
    for point in part["grid"]:
        with np.errstate(invalid="ignore"):
            near = np.asarray(np.isclose(faulty, right, atol=point["atol"], rtol=point["rtol"]))
        outside = np.asarray(~near.all(1))
        for name, event in (("detection_sdc1", changed), ("detection_any", corrupted)):
            told = point[name]
            assert told["n"] == event.sum()
            assert told["rate"] == pytest.approx(np.average(outside[event], weights=rows.weight[event]), abs=1e-8)
            assert told["low"] <= told["rate"] <= told["high"]
            assert told["rate"] <= told["high_95"] <= min(told["high"], told["high_99"]) + 1e-9


def test_images_of_a_weight_fault_are_one_cluster(swept_run: Path, result: dict[str, Any]) -> None:
    part = part_of(result, where="weight")
    point = part["grid"][0]["detection_any"]
    rows = stored_rows(swept_run)
    mine = rows[(rows.target == "model") & (rows["where"] == "weight") & (rows.op == "flip")]
    mine = mine[mine.outcome != "identical"]
    assert (point["n"], point["faults"]) == (len(mine), mine.fault_id.nunique())
    assert point["faults"] < point["n"] / 3
    every = part_of(result)["grid"][0]["detection_any"]
    assert every["faults"] == every["n"]


def test_what_is_flagged_at_the_campaigns_tolerance_is_what_it_called_outside(swept_run: Path) -> None:
    rows = stored_rows(swept_run)
    part = part_of(swept(swept_run))
    (point,) = [p for p in part["grid"] if (p["atol"], p["rtol"]) == (1e-4, 1e-4)]
    mine = rows[(rows.target == "model") & (rows["where"] == "activation") & (rows.op == "flip")]
    mine = mine[mine.outcome != "identical"]
    share = np.average(~mine.outcome.isin(["masked"]), weights=mine.weight)
    assert point["detection_any"]["rate"] == pytest.approx(share, abs=1e-8)


def test_every_tolerance_of_the_default_grid_is_there(swept_run: Path) -> None:
    result = swept(swept_run, noise=("twin",))
    part = part_of(result, 0)
    atols = {p["atol"] for p in part["grid"] if p["rtol"] == 0}
    assert {10.0**e for e in range(-8, 1)} <= atols
    assert {f["smallest_atol"] for n in part["noise"] for f in n["floors"] if f["rtol"] == 0} <= atols
    assert {p["rtol"] for p in part["grid"]} == {0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2}
    assert result["rtol"] == {"swept": [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], "main": 1e-4}


def test_an_output_without_classes_has_no_sdc1(result: dict[str, Any]) -> None:
    part = part_of(result, target="attention")
    assert part["n_sdc1"] is None
    assert part["reasons"] == {"sdc1": "outputs of this target have no classes"}
    assert all(point["detection_sdc1"] is None for point in part["grid"])
    assert part["auc"]["sdc1"] == []
    assert part["recommended"]["sdc1"][0]["reason"] == "outputs of this target have no classes"


def test_no_changed_prediction_at_all_is_said(tiny_copy: Path) -> None:
    def none(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(top1_faulty=rows.top1_golden, outcome=rows.outcome.astype(str).replace("sdc1", "masked"))

    rewrite(tiny_copy, none)
    part = part_of(swept(tiny_copy))
    assert part["n_sdc1"] == 0
    assert "no row of this tier changed the top-1" in part["reasons"]["sdc1"]
    assert "changed the top-1" in part["recommended"]["sdc1"][0]["reason"]
    assert part["grid"][0]["detection_sdc1"] is None
    assert part["grid"][0]["detection_any"] is not None


def test_crashes_count_as_detected_and_are_no_sdc1(tiny_copy: Path) -> None:
    before = part_of(swept(tiny_copy, atol=(1e30,)))

    def crashed(rows: pd.DataFrame) -> pd.DataFrame:
        """Every seventh activation fault with another top-1 ended the engine instead."""
        mine = (rows.outcome == "sdc1") & (rows["where"] == "activation") & (rows.op == "flip")
        rows = rows.astype({"outcome": str, "due": object, "nonfinite": object})
        which = mine & (mine.cumsum() % 7 == 0)
        rows.loc[which, "outcome"], rows.loc[which, "due"] = "due", "crash"
        rows.loc[which, ["top1_faulty", "logits", "nonfinite"]] = None
        rows.loc[which, "masking_atol"] = rows.loc[which, "masking_atol"].map(lambda atols: np.full(len(atols), np.inf))
        return rows

    rewrite(tiny_copy, crashed)
    after = part_of(swept(tiny_copy, atol=(1e30,)))
    ended = before["n_sdc1"] // 7
    assert (after["n_ended"], after["n_sdc1"]) == (ended, before["n_sdc1"] - ended)
    assert after["n_corrupted"] == before["n_corrupted"]
    most = {name: [p["detection_any"]["rate"] for p in part["grid"]] for name, part in (("a", after), ("b", before))}
    assert all(a > b for a, b in zip(most["a"], most["b"], strict=True))


def test_what_the_campaigns_detector_saw_is_no_sdc1(tiny_copy: Path) -> None:
    before = part_of(swept(tiny_copy, atol=(1.0,)))

    def seen(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.astype({"outcome": str, "due": object})
        which = rows.nonfinite & (rows.outcome == "sdc1")
        rows.loc[which, "outcome"], rows.loc[which, "due"] = "due", "nonfinite"
        return rows

    stored = stored_rows(tiny_copy)
    stored = stored[(stored.target == "model") & (stored["where"] == "activation") & (stored.op == "flip")]
    noticed = int((stored.nonfinite & (stored.outcome == "sdc1")).sum())
    rewrite(tiny_copy, seen)
    after = part_of(swept(tiny_copy, atol=(1.0,)))
    assert noticed > 0
    assert (after["n_ended"], after["n_sdc1"]) == (0, before["n_sdc1"] - noticed)
    assert after["grid"][0]["detection_any"] == before["grid"][0]["detection_any"]
