"""``testbed bench`` on two small models: every row is of a plain engine, ratios gate, mistakes are told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from testbed.bench.counts import mac_count, parameter_count
from testbed.core.folder.runfolder import RunFolder
from testbed.export.target import export_target
from testbed.models.config import uniform
from testbed.models.runs import open_model_run, write_model_run
from testbed.models.vit import ViT
from testbed.protect.build import protect
from testbed.protect.contract import CalibrationSet
from testbed.protect.named import passes_named
from tests.support.commands import invoke


def bench(*arguments: object) -> Result:
    return invoke("bench", *arguments)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = []
    for name, depth in (("small", 1), ("large", 6)):
        torch.manual_seed(0)
        model = ViT(uniform(depth, 2, 64, image=16, patch=4, channels=1, width=32, classes=4, head_width=16)).eval()
        path = tmp_path_factory.mktemp("runs") / name
        write_model_run(path, model, stage="import", name=name, made_from={"depth": depth}, data=None)
        made.append(path)
    return made[0], made[1]


QUICK = ("--seconds", "0.2", "--runs", "30", "--batch", "1,3")


def test_rows_say_what_was_timed(folders: tuple[Path, Path]) -> None:
    small, large = folders
    result = bench(*folders, "--baseline", large, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    assert [(row["model"], row["batch"]) for row in rows] == [(str(f), b) for f in folders for b in (1, 3)]
    for row in rows:
        folder = RunFolder.existing(Path(row["model"]))
        assert row["deployment_id"] == folder.output_hash("export.model", "model.onnx")[:16]
        assert 2 <= row["runs"] == len(row["latency_ms"])
        assert row["p50_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["phases_ms"] is None
        assert row["options"]["prepacking"]
    config = uniform(1, 2, 64, image=16, patch=4, channels=1, width=32, classes=4, head_width=16)
    assert (rows[0]["macs"], rows[0]["parameters"]) == (mac_count(config), parameter_count(ViT(config)))
    assert rows[2]["ratio_to_baseline"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert rows[0]["ratio_to_baseline"]["high"] < 1
    assert not list(small.glob("*.twin.onnx"))


def test_a_blink_of_time_is_six_rounds_all_the_same(folders: tuple[Path, Path]) -> None:
    small, large = folders
    result = bench(small, "--baseline", large, "--seconds", "0.0001", "--runs", "2", "--batch", "1", "--json")
    (row,) = [row for row in json.loads(result.stdout)["rows"] if row["model"] == str(small)]
    assert row["runs"] == 6
    assert row["ratio_to_baseline"]["low"] < row["ratio_to_baseline"]["high"]


def test_a_stated_regression_ends_with_3(folders: tuple[Path, Path]) -> None:
    small, large = folders
    result = bench(large, "--baseline", small, *QUICK, "--max-ratio", "1.2")
    assert result.exit_code == 3
    assert "above --max-ratio 1.2" in result.stderr
    assert "time ratio" in result.stdout  # the result is told all the same
    assert bench(small, "--baseline", large, *QUICK, "--max-ratio", "1.2").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["--engine", "abacus"], "unknown engine 'abacus'", 2),
        (["--batch", "0"], "1 or more", 2),
        (["--max-ratio", "1.1"], "needs --baseline", 2),
    ],
)
def test_mistakes_are_told_in_one_line(folders: tuple[Path, Path], arguments: list[str], told: str, code: int) -> None:
    result = bench(folders[0], *arguments)
    assert result.exit_code == code
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert told in line


def test_a_folder_twice_or_without_a_model_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert "named twice" in bench(folders[0], folders[0]).stderr
    assert "holds no run" in bench(tmp_path).stderr


def test_macs_of_a_protected_model_are_those_of_its_deployed_file(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Two more products of block.0's MLP, tokens x width x neurons each, and one multiplication to join its only alarm; weights
    are counted once, as those of the model."""
    small, _ = folders
    run = open_model_run(small)
    plain = export_target(run.model, "model", tmp_path / "plain.onnx")
    images = np.random.default_rng(0).standard_normal((8, 1, 16, 16), np.float32)
    passes = passes_named(["duplicate"], {"duplicate": ["block.0.mlp"]})
    file = protect(plain, passes, CalibrationSet(images, ("ort-cpu",), "fp32")).proto.SerializeToString()
    twice = tmp_path / "twice"
    write_model_run(
        twice, run.model, stage="protect", name="twice", made_from={"by": "test"}, data=None, protected={"fp32": file}
    )
    rows = json.loads(bench(small, twice, *QUICK, "--json").stdout)["rows"]
    config = run.model.config
    copied = 2 * config.tokens * config.width * config.mlp[0]
    assert [row["macs"] for row in rows[::2]] == [mac_count(config), mac_count(config) + copied + 1]
    assert rows[0]["parameters"] == rows[2]["parameters"]
