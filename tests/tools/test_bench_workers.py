"""The benchmark of workers, at toy size: what its record says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench_workers
import pytest

from tests.support.campaigns import TINY


@pytest.mark.slow
def test_any_number_of_workers_has_the_same_rows_and_its_costs_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    monkeypatch.setattr(bench_workers, "DIGITS", TINY)
    options = ["--size", "digits", "--workers", "0", "1", "--repeats", "1", "--quick", "--json"]
    monkeypatch.setattr(sys, "argv", ["bench", *options])
    bench_workers.main()
    digits = json.loads(capsys.readouterr().out)["sizes"]["digits"]
    assert digits["rows"] > 0
    assert digits["same_rows"] is True
    here, one = digits["workers"]["0"], digits["workers"]["1"]
    assert here["processor_over_engine"] > here["thread_over_engine"] > 1
    assert one["processor_over_engine"] is one["thread_over_engine"] is None
    assert one["wall_over_engine"] > 1
    assert digits["scaling"]["1"] == 1


def test_scaling_is_told_against_one_worker() -> None:
    assert bench_workers.scaling({0: 2.0, 1: 4.0, 2: 2.5}) == {0: 2.0, 1: 1.0, 2: 1.6}
    assert bench_workers.scaling({2: 2.5}) == {}
