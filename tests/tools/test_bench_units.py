"""The benchmark of small units, at toy size: what its record says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench_units
import pytest

from tests.support.campaigns import TINY


@pytest.mark.slow
def test_all_sides_have_the_same_rows_and_the_asked_for_units(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", str(TINY), "--unit", "32", "--repeats", "1", "--workers", "0", "--json"])
    bench_units.main()
    found = json.loads(capsys.readouterr().out)
    assert found["same_rows"] is True
    assert (found["unit_rows"]["asked"], found["unit_rows"]["one by one"]) == (32, 32)
    assert found["unit_rows"]["measured"] > 32
    assert 0 < found["processor_ratio"]["one by one"] < found["processor_ratio"]["asked"]
