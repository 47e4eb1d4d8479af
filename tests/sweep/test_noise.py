"""Noise floors and false alarms of fault-free engines, against torch and the plain engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import testbed
from testbed.core.errors import UsageError
from testbed.core.folder.manifest import checksummed
from testbed.core.folder.runfolder import RunFolder
from testbed.sweep.floor import Floor
from tests.support.sweeps import part_of, plain_deviation, swept


def test_floors_are_the_engines_distance_from_torch(swept_run: Path, result: dict[str, Any]) -> None:
    with testbed.open_run(swept_run) as run:
        deviation = {rtol: plain_deviation(run, run.workplace.images.tiers >= 0, rtol) for rtol in (0.0, 1e-6)}
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


def test_false_alarms_are_counted_against_the_reference(swept_run: Path, result: dict[str, Any]) -> None:
    with testbed.open_run(swept_run) as run:
        deviation = plain_deviation(run, run.workplace.images.tiers >= 0, 0.0)
    middle = float(np.median(deviation))
    part = part_of(swept(swept_run, atol=(middle, 1.0), rtol=(0.0,)))
    alarms = [point["false_alarm"] for point in part["grid"]]
    assert alarms[0]["rate"] == pytest.approx((deviation > middle).mean())
    assert (alarms[1]["rate"], alarms[1]["low"], alarms[1]["n"]) == (0.0, 0.0, 6)
    assert alarms[1]["high"] == pytest.approx(1 - 0.025 ** (1 / 6), abs=1e-6)
    assert alarms[1]["high_95"] == pytest.approx(1 - 0.05 ** (1 / 6), abs=1e-6)
    assert alarms[1]["high_99"] == pytest.approx(1 - 0.01 ** (1 / 6), abs=1e-6)


def test_false_alarms_of_every_engine_are_told_at_every_point(swept_run: Path) -> None:
    result = swept(swept_run, noise=("ort-cpu:fp16",), images=30)
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
    monkeypatch.setattr("testbed.sweep.noise_sources.COMPILERS", ())
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
    monkeypatch.setattr("testbed.sweep.noise_sources.COMPILERS", ())
    sources = [(s["target"], s["batch"]) for s in swept(tiny_copy, noise=None)["sources"]]
    assert ("attention", 5) in sources
    assert ("model", 5) not in sources


def test_an_engine_that_is_not_there_is_noted_or_refused(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "testbed.sweep.noise_sources.available",
        lambda backend: (backend != "openvino", f"{backend} is not installed: pip install {backend}"),
    )
    monkeypatch.setattr("testbed.sweep.noise_sources.precisions_of", lambda _: ("fp32",))
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
def test_unknown_engines_are_refused(swept_run: Path, names: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        swept(swept_run, noise=names)


def test_an_infinite_floor_is_no_number(swept_run: Path, result: dict[str, Any]) -> None:
    """JSON has no word for it, and no tolerance is free of alarms."""
    from testbed.sweep.curves import Curves, ToleranceGrid
    from testbed.sweep.noise_sources import Source
    from testbed.sweep.thresholds import read_thresholds

    grid = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    rows = next(read_thresholds(RunFolder.existing(swept_run), grid, (0.0,)))
    floor = Floor(Source("x", "fp16", 1), "model", "", "", np.array([0, 1]), np.full((2, 6), np.inf), 0)
    curves = Curves(rows, [floor], grid, ToleranceGrid((1e-3,), (0.0,), 0.0, (1e-4, 1e-4)), 0.95, 0.5)
    record = next(curves.records()).to_json()
    json.dumps(record, allow_nan=False)
    assert record["noise"][0]["floors"][0]["smallest_atol"] is None
    assert record["grid"][0]["false_alarm"]["rate"] == 1
    assert not record["recommended"]["any"][0]["feasible"]
