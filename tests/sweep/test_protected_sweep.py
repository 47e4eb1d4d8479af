"""A tolerance sweep of a protected engine's campaign: rows with an alarm are an outcome of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import invoke
from tests.support.sweeps import part_of, stored_rows, swept


@pytest.fixture(scope="module")
def folder(protected_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(protected_campaign / "protected/campaign", tmp_path_factory.mktemp("sweep") / "run"))


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    return swept(folder, atol=(0.0, 1e-3, 1.0))


def test_alarms_are_counted_and_part_of_no_event(result: dict[str, Any], folder: Path) -> None:
    rows = stored_rows(folder)
    alarms = 0
    for where in ("activation", "weight"):
        part = part_of(result, where=where)
        own = rows[(rows["where"] == where) & (rows["op"] == "flip")]
        detected = own["outcome"] == "detected"
        alarms += int(detected.sum())
        assert part["n_detected"] == detected.sum()
        assert part["n_sdc1"] == (own["outcome"] == "sdc1").sum()
        corrupted = own[(own["outcome"] != "identical") & ~detected]
        assert part["n_corrupted"] == len(corrupted)
        assert part["n_detected"] + part["n_corrupted"] + (own["outcome"] == "identical").sum() == part["n_rows"]
        for point in part["grid"]:
            if point["rtol"] != 1e-4:
                continue
            if not len(corrupted):
                assert point["detection_any"] is None
                continue
            flagged = np.array(corrupted["masking_atol"].tolist())[:, _at(1e-4)] > point["atol"]
            assert point["detection_any"]["n"] == len(corrupted)
            weighted = np.average(flagged, weights=corrupted["weight"])
            assert point["detection_any"]["rate"] == pytest.approx(weighted, abs=2e-6)
    assert alarms > 0


def _at(rtol: float) -> int:
    return [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2].index(rtol)


def test_it_is_said(result: dict[str, Any], folder: Path) -> None:
    assert "alarm of the engine's own checks" in result["definitions"]["detected"]
    shown = invoke("sweep", folder, "--noise", "twin", "--atol", "1e-3")
    assert shown.exit_code == 0, shown.output
    assert "alarm of the engine's own checks" in " ".join(shown.stdout.split())


def test_an_engine_without_checks_says_nothing_of_them(protected_campaign: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(
        protected_campaign, tmp_path / "plain", ignore=shutil.ignore_patterns("protected", "comparison")
    )
    result = swept(plain, atol=(1e-3,))
    assert "detected" not in result["definitions"]
    assert all("n_detected" not in part for part in result["tiers"])
