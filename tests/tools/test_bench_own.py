"""The benchmarks of this project's own parts, at toy size: they measure what they say they do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench_classspace_memory
import bench_judge
import bench_memory
import pyarrow.parquet as pq
import pytest

from testbed.analysis.outputs import native_judge
from testbed.campaign.files import PLAN, RESULTS


def test_the_judge_is_timed_on_what_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(bench_judge, "SIZES", {"logits": (10, 8), "attention": (300, 4)})
    monkeypatch.setattr(sys, "argv", ["bench_judge.py", "--repeats", "1", "--json"])
    bench_judge.main()
    told = json.loads(capsys.readouterr().out)
    assert [(one["target"], one["outputs"]) for one in told["measured"]] == [
        (target, kind) for target in ("logits", "attention") for kind in ("everywhere", "token", "nonfinite")
    ]
    for one in told["measured"]:
        assert set(one["rows_per_second"]) == {"numpy", *native_judge.sets()}
        assert set(one["ratio"]) == set(native_judge.sets())


def test_memory_is_measured_on_a_campaigns_own_files(tmp_path: Path) -> None:
    planned = bench_memory.plan(tmp_path, 4000)["faults"]
    assert pq.read_metadata(tmp_path / PLAN).num_rows == planned > 3000
    stored = bench_memory.store(tmp_path)["rows"]
    assert pq.read_metadata(tmp_path / RESULTS).num_rows == stored > planned
    told = bench_memory.summary(tmp_path)
    assert (told["faults"], told["rows"]) == (planned, stored)
    assert told["rates"] > 0


def test_more_faults_are_drawn_from_the_same_strata(tmp_path: Path) -> None:
    strata = []
    for faults in (4000, 12_000):
        bench_memory.plan(tmp_path, faults)
        strata.append(set(pq.read_table(tmp_path / PLAN, columns=["stratum"]).column("stratum").to_pylist()))
    assert strata[0] == strata[1]


def test_class_spaces_memory_is_measured_on_every_part(tmp_path: Path) -> None:
    bench_classspace_memory.random_run(tmp_path, bench_classspace_memory.SMALL, 6)
    for run in bench_classspace_memory.PARTS.values():
        run(tmp_path, 6)
    tables = {path.stem for path in (tmp_path / "out").glob("*.csv")}
    assert {"identifiability", "key_value_agreement", "perturbation", "explanation", "distances"} <= tables


def test_memory_of_many_images_is_extrapolated_from_two_sizes() -> None:
    row = bench_classspace_memory.summary("probe", {10: 1500.0, 20: 1510.0})
    assert (row["mib_per_image"], row["peak_mib_at_10000"]) == (1.0, 11490.0)
    assert row["of_limit"] == round(1510 / 3072, 3)
    assert bench_classspace_memory.summary("probe", {10: 1500.0})["peak_mib_at_10000"] is None
