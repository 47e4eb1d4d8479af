"""Tolerance sweeps: every number against an independent computation from the stored outputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

import testbed
from testbed.campaign.spec.campaign import load_spec
from testbed.core.errors import StaleArtefact, TestbedError, UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.core.folder.runfolder import RunFolder
from testbed.golden.arrays import read_array
from testbed.sweep.noise import Floor
from testbed.sweep.run import SweepRequest, read_sweep, sweep_campaign, swept_rtols, undecided_rows
from tests.support.campaigns import TINY
from tests.support.progress import no_progress
from tests.support.records import records

GRID = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)


def swept(folder: Path, **asked: Any) -> dict[str, Any]:
    return sweep_campaign(folder, SweepRequest(**{"noise": (), **asked}), no_progress)


@pytest.fixture(scope="module")
def own(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished campaign that is swept, and nothing else."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("sweep") / "tiny"))


@pytest.fixture(scope="module")
def result(own: Path) -> dict[str, Any]:
    return swept(own, atol=GRID, noise=("twin", "ort-cpu@1"))


def part_of(result: dict[str, Any], tier: int | None = None, **model: str) -> dict[str, Any]:
    """The only record of this fault model and tier."""
    wanted = {"target": "model", "where": "activation", "op": "flip", "tier": tier, **model}
    (found,) = [part for part in result["tiers"] if all(part[name] == value for name, value in wanted.items())]
    return dict(found)


def stored_rows(folder: Path) -> pd.DataFrame:
    """With the weight of each row: its stratum's population over the stratum's rows."""
    rows = pq.read_table(folder / "results.parquet").to_pandas()
    plan = pq.read_table(folder / "faults.parquet", columns=["fault_id", "population"]).to_pandas()
    rows = rows.merge(plan, on="fault_id")
    rows["weight"] = rows["population"] / rows.groupby("stratum")["fault_id"].transform("size")
    return rows


def rewrite(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Other rows, as if the campaign had found them."""
    path = folder / "results.parquet"
    table = pq.read_table(path)
    rows = change(table.to_pandas())
    pq.write_table(pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"]["execute"]["outputs"]["results.parquet"] = sha256_file(path)
    (folder / "manifest.json").write_text(json.dumps(checksummed(manifest)))


# ---- detection


@pytest.mark.parametrize("tier", [None, 0, 1])
@pytest.mark.parametrize("op", ["flip", "random"])
def test_detection_is_the_weighted_share_of_outputs_outside(
    own: Path, result: dict[str, Any], tier: int | None, op: str
) -> None:
    """Outside is asked of the stored logits again, by NumPy; weights are put together by hand."""
    rows = stored_rows(own)
    rows = rows[(rows.target == "model") & (rows["where"] == "activation") & (rows.op == op)]
    rows = rows if tier is None else rows[rows.tier == tier]
    with testbed.load_run(own) as run:
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


def test_images_of_a_weight_fault_are_one_cluster(own: Path, result: dict[str, Any]) -> None:
    part = part_of(result, where="weight")
    point = part["grid"][0]["detection_any"]
    rows = stored_rows(own)
    mine = rows[(rows.target == "model") & (rows["where"] == "weight") & (rows.op == "flip")]
    mine = mine[mine.outcome != "identical"]
    assert (point["n"], point["faults"]) == (len(mine), mine.fault_id.nunique())
    assert point["faults"] < point["n"] / 3
    every = part_of(result)["grid"][0]["detection_any"]
    assert every["faults"] == every["n"]


def test_what_is_flagged_at_the_campaigns_tolerance_is_what_it_called_outside(own: Path) -> None:
    rows = stored_rows(own)
    part = part_of(swept(own))
    (point,) = [p for p in part["grid"] if (p["atol"], p["rtol"]) == (1e-4, 1e-4)]
    mine = rows[(rows.target == "model") & (rows["where"] == "activation") & (rows.op == "flip")]
    mine = mine[mine.outcome != "identical"]
    share = np.average(~mine.outcome.isin(["masked"]), weights=mine.weight)
    assert point["detection_any"]["rate"] == pytest.approx(share, abs=1e-8)


def test_every_tolerance_of_the_default_grid_is_there(own: Path) -> None:
    result = swept(own, noise=("twin",))
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


# ---- areas and advice


def test_areas_are_scikit_learns(own: Path, result: dict[str, Any]) -> None:
    rows = stored_rows(own)
    rows = rows[(rows.target == "model") & (rows["where"] == "activation") & (rows.op == "flip") & (rows.tier == 1)]
    with testbed.load_run(own) as run:
        clean = _plain_deviation(run, run.workplace.images.tiers == 1, 1e-4)
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


def _plain_deviation(run: testbed.Run, which: np.ndarray, rtol: float) -> np.ndarray:
    """The smallest atol of the plain engine's images against torch, by NumPy (to its rounding)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(run.plain_file().read_bytes(), providers=["CPUExecutionProvider"])
    images = read_array(run.folder / "inputs" / "model.npy")
    outputs = session.run(None, {session.get_inputs()[0].name: np.asarray(images)})[0].astype(np.float64)
    golden = read_array(run.folder / "golden" / "logits.npy")[run.workplace.images.positions].astype(np.float64)
    found: np.ndarray = np.maximum(np.abs(outputs - golden) - rtol * np.abs(golden), 0).max(1)[which]
    return found


def test_roc_points_step_where_a_clean_image_alarms(result: dict[str, Any]) -> None:
    part = part_of(result)
    for curve in part["roc"]:
        assert curve["rtol"] == 1e-4
        alarms = [point["false_alarm"] for point in curve["points"]]
        assert alarms[0] == 0
        assert alarms == sorted(alarms)
        detected = [point["any"]["rate"] for point in curve["points"]]
        assert detected == sorted(detected)


def test_the_advised_tolerance_detects_as_much_as_was_asked_for_and_the_next_does_not(own: Path) -> None:
    part = part_of(swept(own, detect=0.4))
    advised = [a for a in part["recommended"]["any"] if a["atol"]]
    assert advised
    for advice in advised:
        atol, rtol = advice["atol"], advice["rtol"]
        here = part_of(swept(own, atol=(atol, float(np.nextafter(atol, 1))), rtol=(rtol,)))
        at, beyond = [point["detection_any"] for point in here["grid"]]
        assert at == advice["detection"]
        assert at["low"] >= 0.4 > beyond["low"]
        assert advice["feasible"] == (advice["no_alarm_atol"] <= atol)


def test_out_of_reach_and_too_few_are_told_apart(own: Path) -> None:
    part = part_of(swept(own, detect=0.99))
    assert {a["atol"] for event in ("sdc1", "any") for a in part["recommended"][event]} == {None}
    assert "too few to show 99 %" in part["recommended"]["sdc1"][0]["reason"]
    assert "even at atol 0 only" in part["recommended"]["any"][-1]["reason"]


# ---- fault-free engines


def test_floors_are_the_engines_distance_from_torch(own: Path, result: dict[str, Any]) -> None:
    with testbed.load_run(own) as run:
        deviation = {rtol: _plain_deviation(run, run.workplace.images.tiers >= 0, rtol) for rtol in (0.0, 1e-6)}
    noise = part_of(result)["noise"]
    assert [n["source"] for n in noise] == [
        "ort-cpu fp32, batch 16",
        "ort-cpu fp32, batch 16, twin",
        "ort-cpu fp32, batch 1",
    ]
    for source in noise:
        floors = {f["rtol"]: f for f in source["floors"]}
        for rtol, expected in deviation.items():
            assert floors[rtol]["smallest_atol"] == pytest.approx(expected.max(), rel=1e-6, abs=1e-12)
        assert floors[0.0]["false_alarm_upper"] == pytest.approx(1 - 0.05 ** (1 / 6), abs=1e-8)
        assert source["n"] == 6


def test_false_alarms_are_counted_against_the_reference(own: Path, result: dict[str, Any]) -> None:
    with testbed.load_run(own) as run:
        deviation = _plain_deviation(run, run.workplace.images.tiers >= 0, 0.0)
    middle = float(np.median(deviation))
    part = part_of(swept(own, atol=(middle, 1.0), rtol=(0.0,)))
    alarms = [point["false_alarm"] for point in part["grid"]]
    assert alarms[0]["rate"] == pytest.approx((deviation > middle).mean())
    assert (alarms[1]["rate"], alarms[1]["low"], alarms[1]["n"]) == (0.0, 0.0, 6)
    assert alarms[1]["high"] == pytest.approx(1 - 0.025 ** (1 / 6), abs=1e-6)


def test_false_alarms_of_every_engine_are_told_at_every_point(own: Path) -> None:
    result = swept(own, noise=("ort-cpu:fp16",), images=30)
    part = part_of(result, 1)
    found = {r["source"]: r for r in result["false_alarms"] if (r["target"], r["tier"]) == ("model", 1)}
    assert list(found) == ["ort-cpu fp32, batch 16", "ort-cpu fp16, batch 16"]
    for record in found.values():
        assert [(p["rtol"], p["atol"]) for p in record["grid"]] == [(p["rtol"], p["atol"]) for p in part["grid"]]
        floors = next(n for n in part["noise"] if n["source"] == record["source"])["floors"]
        for point in record["grid"]:
            floor = next(f["smallest_atol"] for f in floors if f["rtol"] == point["rtol"])
            assert (point["rate"] == 0) == (point["atol"] >= floor)
    assert [p["rate"] for p in found["ort-cpu fp32, batch 16"]["grid"]] == [
        p["false_alarm"]["rate"] for p in part["grid"]
    ]
    assert max(p["rate"] for p in found["ort-cpu fp16, batch 16"]["grid"]) == 1


def test_engines_are_measured_once(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = swept(tiny_copy, noise=("ort-cpu:fp16@3",))
    assert first["sources"][-1]["precision"] == "fp16"

    def never(*arguments: Any) -> None:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr("testbed.sweep.noise.open_engine", never)
    monkeypatch.setattr("testbed.campaign.folder.workplace.open_engine", never)
    again = swept(tiny_copy, noise=("ort-cpu:fp16@3",), atol=(1e-3,))
    assert again["sources"] == first["sources"]
    with pytest.raises(AssertionError, match="an engine was opened"):
        swept(tiny_copy, noise=("ort-cpu@5",))


def test_what_was_measured_before_is_part_of_the_default(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept(tiny_copy, noise=("ort-cpu@5",))
    monkeypatch.setattr("testbed.sweep.noise_sources._COMPILERS", ())
    names = {s["source"] for s in swept(tiny_copy, noise=None)["sources"]}
    assert names == {
        "ort-cpu fp32, batch 16",
        "ort-cpu fp32, batch 16, twin",
        "ort-cpu fp32, batch 1",
        "ort-cpu fp16, batch 16",
        "ort-cpu fp32, batch 5",
    }


def test_a_floor_of_another_model_is_not_kept(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept(tiny_copy, noise=("ort-cpu@5",))
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    manifest["stages"]["noise.model.ort-cpu-fp32-b5-plain"]["inputs"]["plain"] = {"model.onnx": "another"}
    (tiny_copy / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    monkeypatch.setattr("testbed.sweep.noise_sources._COMPILERS", ())
    sources = [(s["target"], s["batch"]) for s in swept(tiny_copy, noise=None)["sources"]]
    assert ("attention", 5) in sources
    assert ("model", 5) not in sources


def test_an_engine_that_is_not_there_is_noted_or_refused(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "testbed.sweep.noise_sources.available",
        lambda backend: (backend != "openvino", f"{backend} is not installed: pip install {backend}"),
    )
    monkeypatch.setattr("testbed.sweep.noise_sources.PRECISIONS", {"ort-cpu": ("fp32",), "openvino": ("fp32",)})
    assert swept(tiny_copy, noise=None)["notes"] == [
        "openvino fp32, batch 16 was not measured: openvino is not installed: pip install openvino",
        "ort-cpu fp16, batch 16 was not measured: ort-cpu does not offer fp16",
    ]


def test_more_images_make_a_surer_bound(tiny_copy: Path) -> None:
    few = part_of(swept(tiny_copy), 0)["noise"][0]
    many = part_of(swept(tiny_copy, images=40), 0)["noise"][0]
    assert (few["n"], many["n"]) == (3, 40)
    for a, b in zip(few["floors"], many["floors"], strict=True):
        assert a["smallest_atol"] <= b["smallest_atol"]
        assert b["false_alarm_upper"] < a["false_alarm_upper"] / 8
    assert part_of(swept(tiny_copy), 0)["noise"][0]["n"] == 40  # kept


def test_a_truncated_floor_is_measured_again(tiny_copy: Path) -> None:
    first = part_of(swept(tiny_copy))["noise"]
    (tiny_copy / "noise" / "model.ort-cpu-fp32-b16-plain.parquet").write_bytes(b"PAR1")
    assert part_of(swept(tiny_copy))["noise"] == first


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("openvin0",), "unknown engine 'openvin0'"),
        (("ort-cpu:bf16",), "does not offer 'bf16'"),
        (("ort-cpu@0",), "write an engine as BACKEND"),
        (("ort cpu",), "write an engine as BACKEND"),
    ],
)
def test_unknown_engines_are_refused(own: Path, names: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        swept(own, noise=names)


def test_an_infinite_floor_is_no_number(own: Path, result: dict[str, Any]) -> None:
    """JSON has no word for it, and no tolerance is free of alarms."""
    from testbed.sweep.curves import Curves, ToleranceGrid
    from testbed.sweep.noise_sources import Source
    from testbed.sweep.thresholds import read_thresholds

    grid = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    rows = next(read_thresholds(RunFolder.existing(own), grid, (0.0,)))
    floor = Floor(Source("x", "fp16", 1), "model", "", "", np.array([0, 1]), np.full((2, 6), np.inf), 0)
    curves = Curves(rows, [floor], grid, ToleranceGrid((1e-3,), (0.0,), 0.0, (1e-4, 1e-4)), 0.95, 0.5)
    record = next(curves.records())
    json.dumps(record, allow_nan=False)
    assert record["noise"][0]["floors"][0]["smallest_atol"] is None
    assert record["grid"][0]["false_alarm"]["rate"] == 1
    assert not record["recommended"]["any"][0]["feasible"]


# ---- rows that are known to within a bound


def loosened(rows: pd.DataFrame) -> pd.DataFrame:
    """Some activation rows of the model as if found incrementally: moved by no more than their bound says."""
    rows = rows.astype({"evaluation": str})
    which = (rows.target == "model") & (rows["where"] == "activation") & (rows.fault_id % 2 == 0)
    which &= (rows.outcome != "identical") & ~rows.nonfinite.fillna(False).astype(bool)
    rows.loc[which, "evaluation"], rows.loc[which, "error_bound"] = "incremental", 3e-3
    for odd, by in ((0, -2e-3), (2, 2e-3)):
        some = which & (rows.fault_id % 4 == odd)
        moved = rows.loc[some, "masking_atol"].map(lambda atols, by=by: np.maximum(atols + by, 0))
        rows.loc[some, "masking_atol"] = moved
    return rows


def test_undecided_rows_widen_the_interval_until_they_are_evaluated(tiny_copy: Path) -> None:
    truth = part_of(swept(tiny_copy, atol=GRID))
    rewrite(tiny_copy, loosened)
    loose = part_of(swept(tiny_copy, atol=GRID))
    undecided = 0
    for exact, wide in zip(truth["grid"], loose["grid"], strict=True):
        for name in ("detection_sdc1", "detection_any"):
            assert wide[name]["low"] <= exact[name]["low"]
            assert wide[name]["high"] >= exact[name]["high"]
            undecided += wide[name].get("undecided", 0)
    assert undecided
    for exact, wide in zip(truth["auc"]["any"], loose["auc"]["any"], strict=True):
        assert wide["low"] <= exact["low"]
        assert wide["high"] >= exact["high"]

    again = part_of(swept(tiny_copy, atol=GRID, exact=True))
    assert again["grid"] == truth["grid"]
    assert swept(tiny_copy, atol=GRID)["tiers"] == swept(tiny_copy, atol=GRID, exact=True)["tiers"]  # kept


def test_undecided_rows_are_listed(tiny_copy: Path) -> None:
    assert not len(undecided_rows(tiny_copy, 1e-3, 0.0))
    rewrite(tiny_copy, loosened)
    found = undecided_rows(tiny_copy, 1e-3, 1e-4)
    assert len(found)
    assert (np.abs(found.masking_atol - 1e-3) <= found.error_bound).all()
    with testbed.load_run(tiny_copy) as run:
        for row in records(found.head(3)):
            hit = run.replay(int(row.fault_id), row.image_id)
            deviation = np.abs(hit.faulty.astype(float) - hit.golden)
            assert max(0, (deviation - 1e-4 * np.abs(hit.golden)).max()) == pytest.approx(
                row.masking_atol, abs=row.error_bound
            )


# ---- bad input


def test_an_rtol_that_rows_do_not_tell_about_is_refused(own: Path) -> None:
    with pytest.raises(UsageError, match=r"rtol 0\.5 cannot be swept: rows store .* 0, 1e-06, 1e-05"):
        swept(own, rtol=(1e-5, 0.5))


def test_rows_without_thresholds_are_told() -> None:
    spec = load_spec(TINY, ["tolerance.rtol_grid=[]"])
    with pytest.raises(UsageError, match=r"nothing to sweep: .* tolerance\.rtol_grid, which is empty"):
        swept_rtols(spec, None)


def test_an_unfinished_campaign_is_refused(gated: Path) -> None:
    with pytest.raises(StaleArtefact, match="run the campaign to the end first"):
        swept(gated)


@pytest.mark.parametrize("name", ["results.parquet", "faults.parquet", "tiers.json"])
def test_changed_files_are_refused(tiny_copy: Path, name: str) -> None:
    with open(tiny_copy / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(StaleArtefact, match=f"{name} was edited or truncated"):
        swept(tiny_copy)


def test_a_folder_without_a_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        swept(tmp_path)


def test_a_second_process_is_kept_out(tiny_copy: Path) -> None:
    with RunFolder.existing(tiny_copy).locked(), pytest.raises(TestbedError, match="another process is working"):
        swept(tiny_copy)


# ---- the stage


def test_the_sweep_stays_in_the_folder_until_the_results_are_others(tiny_copy: Path) -> None:
    assert read_sweep(RunFolder.existing(tiny_copy)) is None
    found = swept(tiny_copy, atol=GRID)
    assert read_sweep(RunFolder.existing(tiny_copy)) == found
    rewrite(tiny_copy, lambda rows: rows.assign(label=0))
    assert read_sweep(RunFolder.existing(tiny_copy)) is None


def test_the_same_request_is_not_worked_out_twice(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = swept(tiny_copy, atol=GRID)

    def never(*arguments: Any) -> None:
        raise AssertionError("worked out again")

    monkeypatch.setattr("testbed.sweep.run._swept", never)
    assert swept(tiny_copy, atol=GRID) == found
    with pytest.raises(AssertionError, match="worked out again"):
        swept(tiny_copy, atol=GRID, detect=0.5)


def test_the_same_sweep_has_the_same_bytes(tiny_copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_copy, tmp_path / "other"))
    for folder in (tiny_copy, other):
        swept(folder)
    assert (tiny_copy / "sweep.json").read_bytes() == (other / "sweep.json").read_bytes()
