"""The sweep as a stage: rows known to within a bound, what it refuses, what stays in the folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import testbed
from testbed.campaign.spec.campaign import load_spec
from testbed.core.errors import StaleArtefact, TestbedError, UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.sweep.run import read_sweep, swept_rtols, undecided_rows
from tests.support.campaigns import TINY
from tests.support.records import records
from tests.support.sweeps import GRID, part_of, rewrite, swept


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
    with testbed.open_run(tiny_copy) as run:
        for row in records(found.head(3)):
            hit = run.replay(int(row.fault_id), row.image_id)
            deviation = np.abs(hit.faulty.astype(float) - hit.golden)
            assert max(0, (deviation - 1e-4 * np.abs(hit.golden)).max()) == pytest.approx(
                row.masking_atol, abs=row.error_bound
            )


def test_an_rtol_that_rows_do_not_tell_about_is_refused(swept_run: Path) -> None:
    with pytest.raises(UsageError, match=r"rtol 0\.5 cannot be swept: rows store .* 0, 1e-06, 1e-05"):
        swept(swept_run, rtol=(1e-5, 0.5))


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


def test_the_sweep_stays_in_the_folder_until_the_results_are_others(tiny_copy: Path) -> None:
    assert read_sweep(RunFolder.existing(tiny_copy)) is None
    found = swept(tiny_copy, atol=GRID)
    kept = read_sweep(RunFolder.existing(tiny_copy))
    assert kept is not None
    assert kept.to_json() == found
    rewrite(tiny_copy, lambda rows: rows.assign(label=0))
    assert read_sweep(RunFolder.existing(tiny_copy)) is None


def test_the_same_request_is_not_worked_out_twice(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = swept(tiny_copy, atol=GRID)

    def never(*arguments: Any) -> None:
        raise AssertionError("worked out again")

    monkeypatch.setattr("testbed.sweep.run.Curves", never)
    assert swept(tiny_copy, atol=GRID) == found
    with pytest.raises(AssertionError, match="worked out again"):
        swept(tiny_copy, atol=GRID, detect=0.5)


def test_the_same_sweep_has_the_same_bytes(tiny_copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_copy, tmp_path / "other"))
    for folder in (tiny_copy, other):
        swept(folder)
    assert (tiny_copy / "sweep.json").read_bytes() == (other / "sweep.json").read_bytes()
