"""`testbed fault lens` from the command line and from Python: what it writes, repeats, and refuses in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import testbed
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.summary.record import Summary
from testbed.core.folder.runfolder import RunFolder
from testbed.sensitivity.campaign_lens.record import LensRecord, read_lens
from testbed.sensitivity.fault_lens import look_through
from tests.support.commands import answer, error_of, invoke, last_error_of

FILES = ("lens.json", "lens_faults.csv", "lens_groups.csv", "lens.svg")


def test_files_answer_and_python_say_the_same(tiny_run: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tiny_run.iterdir())
    record = answer("fault", "lens", tiny_run, "--sample", 40, "--op", "flip", "--to", tmp_path / "lens")
    assert sorted(path.name for path in (tmp_path / "lens").iterdir()) == sorted(FILES)
    assert json.loads((tmp_path / "lens" / "lens.json").read_text()) == record
    view = testbed.examine_campaign(tiny_run, tmp_path / "again", sample=40, op="flip")
    assert view.to_json() == record
    for name in FILES:
        assert (tmp_path / "lens" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(path.name for path in tiny_run.iterdir()) == before  # --to leaves the campaign as it is
    assert {model["where"] for model in record["models"]} == {"activation", "weight"}
    disagreements, compared = (sum(model[key] for model in record["models"]) for key in ("disagreements", "compared"))
    assert (
        disagreements <= 0.01 * compared
    )  # values near the largest: the engine's rounding and the eager model's differ
    groups = pd.read_csv(tmp_path / "lens" / "lens_groups.csv")
    assert groups["absorbed"].to_numpy() == pytest.approx(view.groups["absorbed"].to_numpy())
    assert len(view.depths) >= len(view.groups)
    assert {"auc.value", "auc.low"} <= {*view.predictions.columns}
    assert (view.bands["sdc1.n"] > 0).all()
    assert "Fault lens over tiny" in view._repr_html_()


def test_each_fault_in_the_table_is_what_its_own_lens_says(tiny_run: Path, tmp_path: Path) -> None:
    invoke("fault", "lens", tiny_run, "--sample", 16, "--where", "activation", "--op", "flip", "--to", tmp_path)
    faults = pd.read_csv(tmp_path / "lens_faults.csv").replace({np.nan: None})
    assert len(faults) == 16
    for row in faults.to_dict("records"):
        lens = look_through(tiny_run, row["fault_id"], row["image_id"])
        assert lens.fault.stored_outcome == row["outcome"]
        if max(block.faulty_rank for block in lens.blocks) < 10:  # beside a NaN the head says no class
            assert (lens.takes_over, lens.repaired) == (row["takes_over"], row["repaired"])
        if lens.enters is not None:
            assert lens.absorbed == row["absorbed"]


def test_in_the_campaigns_folder_it_is_measured_once_and_read_again(tiny_copy: Path) -> None:
    shown = invoke("fault", "lens", tiny_copy, "--sample", 24, "--op", "flip", "--where", "activation")
    assert shown.exit_code == 0, shown.output
    assert "activation flip: 24 faults looked at" in shown.stdout
    assert "median depth" in shown.stdout
    written = (tiny_copy / "lens.json").stat().st_mtime_ns
    record = read_lens(RunFolder.existing(tiny_copy))
    assert record == LensRecord.model_validate(
        answer("fault", "lens", tiny_copy, "--sample", 24, "--op", "flip", "--where", "activation")
    )
    assert (tiny_copy / "lens.json").stat().st_mtime_ns == written
    answer("fault", "lens", tiny_copy, "--sample", 20, "--where", "activation", "--op", "flip")
    assert (tiny_copy / "lens.json").stat().st_mtime_ns > written


def test_a_dry_run_says_the_sample_and_writes_nothing(tiny_copy: Path) -> None:
    before = sorted(path.name for path in tiny_copy.iterdir())
    asked = ("fault", "lens", tiny_copy, "--sample", 30, "--op", "stuck1")
    plan = answer(*asked, "--dry-run")
    record = answer(*asked, "--to", tiny_copy.parent / "lens")
    assert [model["sample"] for model in plan["models"]] == [model["sample"] for model in record["models"]]
    assert "nothing is run" in invoke("fault", "lens", tiny_copy, "--dry-run").stdout
    assert sorted(path.name for path in tiny_copy.iterdir()) == before


def test_what_it_refuses_is_said_in_a_line(gated: Path, tmp_path: Path) -> None:
    assert "run the campaign to the end first" in last_error_of(invoke("fault", "lens", gated), 1)
    assert "holds no run" in error_of(invoke("fault", "lens", tmp_path / "none"), 2)
    assert not any((gated / name).exists() for name in FILES)


def few_faults(values: dict[str, Any]) -> dict[str, Any]:
    """The spec with a handful of faults."""
    section = {
        "target": "model",
        "where": "activation",
        "sites": ["head"],
        "bits": [6],
        "ops": ["flip"],
        "per_stratum": 2,
    }
    return values | {"faults": [section], "gates": values["gates"] | {"zero_fault_rows": 16}}


def test_a_campaign_of_int8_is_refused(
    tiny_values: dict[str, Any], run_spec: Callable[..., Summary], tmp_path: Path
) -> None:
    engine = tiny_values["engine"] | {"precision": "int8", "calibration_images": 50}
    folder = tmp_path / "int8"
    run_spec(parse_spec(few_faults(tiny_values) | {"engine": engine}), folder)
    for options in ((), ("--dry-run",)):
        line = error_of(invoke("fault", "lens", folder, *options), 2)
        assert "floating-point words only; use a campaign of engine.precision fp32, fp16 or bf16" in line
    assert not any((folder / name).exists() for name in FILES)


def test_a_campaign_on_an_onnx_file_is_refused(
    tiny_run: Path, tiny_values: dict[str, Any], run_spec: Callable[..., Summary], tmp_path: Path
) -> None:
    values = few_faults(tiny_values) | {"model": {"onnx": str(tiny_run / "model.onnx")}}
    run_spec(parse_spec(values), tmp_path / "onnx")
    line = error_of(invoke("fault", "lens", tmp_path / "onnx"), 2)
    assert "import its weights with `testbed import`" in line
