"""``testbed sweep``: its tables, its JSON, its file, and one line for everything that is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result

from testbed.cli.commands.results.sweep import Tolerances
from tests.support.commands import error_of, invoke, strict_json


def sweep(*arguments: object) -> Result:
    return invoke("sweep", *arguments)


def test_the_tables_tell_noise_detection_and_the_link(swept_run: Path) -> None:
    result = sweep(swept_run, "--noise", "twin", "--link", "--full")
    assert result.exit_code == 0, result.output
    for part in (
        "against the reference golden (PyTorch",
        "against the engine golden",
        "smallest atol without a false alarm",
        "ort-cpu fp32, batch 16, twin",
        "AUC, SDC-1",
        "99 % up to",
        "model weights, flip, all images: at rtol 0.0001, false alarms",
        "sensitivity",
        "with the stored logits, bit for bit",
    ):
        assert part in " ".join(result.stdout.split()), part
    assert result.stderr == ""


def test_it_is_short_and_ends_with_what_to_deploy(swept_run: Path) -> None:
    swept = json.loads(sweep(swept_run, "--noise", "twin", "--json").stdout)
    lines = sweep(swept_run, "--noise", "twin").stdout.splitlines()
    assert len(lines) < 90
    assert not any("false alarms of fault-free engines" in line for line in lines)
    last = " ".join(" ".join(lines).partition("--to FILE.csv.")[2].split())
    target_places = list(dict.fromkeys((part["target"], part["where"]) for part in swept["tiers"]))
    assert last.count("deploy atol") == len(target_places) > 1
    for target, where in target_places:
        part = next(p for p in swept["tiers"] if (p["target"], p["where"], p["tier"]) == (target, where, None))
        place = f"{target} {'activations' if where == 'activation' else 'weights'}"
        found = re.search(rf"deploy atol (\S+) \(rtol 1e-4\) on {place}: ", last)
        assert found
        floor = next(f["smallest_atol"] for f in part["noise"][0]["floors"] if f["rtol"] == 1e-4)
        assert float(found[1]) >= floor  # never a tolerance at which the engine itself raises an alarm


def test_json_is_one_object_without_nan(swept_run: Path) -> None:
    swept = strict_json(sweep(swept_run, "--noise", "twin", "--json").stdout)
    assert {"tiers", "sources", "goldens", "definitions", "link", "notes"} <= swept.keys()
    assert swept == json.loads((swept_run / "sweep.json").read_text())
    assert {part["tier"] for part in swept["tiers"]} == {None, 0, 1}


def test_grids_are_taken_as_they_are_given(swept_run: Path) -> None:
    swept = json.loads(sweep(swept_run, "--noise", "", "--atol", "1e-6:1:4", "--rtol", "1e-3,0", "--json").stdout)
    points = swept["tiers"][0]["grid"]
    assert [(p["rtol"], p["atol"]) for p in points] == [
        (rtol, atol) for rtol in (0.0, 1e-3) for atol in (1e-6, 1e-4, 1e-2, 1.0)
    ]
    shown = sweep(swept_run, "--noise", "", "--atol", "0.03", "--rtol", "0").stdout
    assert "0.03" in shown


def test_to_writes_every_point(swept_run: Path, tmp_path: Path) -> None:
    swept = json.loads(sweep(swept_run, "--noise", "", "--atol", "1e-4,1", "--json", "--to", tmp_path / "g.csv").stdout)
    table = pd.read_csv(tmp_path / "g.csv")
    assert len(table) == sum(len(part["grid"]) for part in swept["tiers"])
    assert {"tier", "atol", "rtol", "false_alarm.rate", "detection_sdc1.low", "detection_any.high"} <= {*table.columns}
    sweep(swept_run, "--noise", "", "--atol", "1e-4,1", "--to", tmp_path / "g.parquet")
    assert len(pd.read_parquet(tmp_path / "g.parquet")) == len(table)


def test_mistakes_are_one_line(swept_run: Path, tmp_path: Path) -> None:
    assert "holds no run" in error_of(sweep(tmp_path / "none"), 2)
    assert "rtol 0.5 cannot be swept" in error_of(sweep(swept_run, "--rtol", "0.5"), 2)
    assert "is no grid" in error_of(sweep(swept_run, "--atol", "1e-6;1e-5"), 2)
    assert "is no grid" in error_of(sweep(swept_run, "--atol", "1:1e-6:4"), 2)
    assert "tolerances from 0 to" in error_of(sweep(swept_run, "--atol", "-1"), 2)
    assert "tolerances from 0 to" in error_of(sweep(swept_run, "--atol", "nan"), 2)
    assert "--detect" in error_of(sweep(swept_run, "--detect", "1"), 2)
    assert ".csv or .parquet" in error_of(sweep(swept_run, "--to", tmp_path / "grid.xlsx"), 2)
    assert "give both" in error_of(sweep(swept_run, "--limit", "5"), 2)
    assert "unknown engine" in error_of(sweep(swept_run, "--noise", "magic"), 2)


def test_an_unfinished_campaign_is_one_line(gated: Path) -> None:
    assert "run the campaign to the end first" in error_of(sweep(gated), 1)


def test_help_has_an_example() -> None:
    result = sweep("-h")
    assert result.exit_code == 0
    assert "testbed sweep runs/digits" in result.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-6", (1e-6,)),
        ("1e-4, 1e-6,1e-4", (1e-6, 1e-4)),
        ("0,1", (0.0, 1.0)),
        ("1e-8:1:9", tuple(10.0**e for e in range(-8, 1))),
    ],
)
def test_grids(text: str, expected: tuple[float, ...]) -> None:
    assert Tolerances().convert(text, None, None) == pytest.approx(expected)


def test_tables_survive_rates_that_do_not_exist(swept_run: Path) -> None:
    from testbed.cli.common import console
    from testbed.cli.tables.sweep import sweep_tables
    from testbed.sweep.record import SweepRecord

    swept: dict[str, Any] = json.loads(sweep(swept_run, "--noise", "", "--json").stdout)
    for part in swept["tiers"]:
        part["n_sdc1"] = 0 if part["n_sdc1"] is not None else None
        part["auc"]["sdc1"] = []
        for floor in part["noise"][0]["floors"]:
            floor["smallest_atol"] = None
        for point in part["grid"]:
            point["detection_sdc1"] = None
    for full in (False, True):
        shown = console()
        with shown.capture() as text:
            shown.print(sweep_tables(SweepRecord.model_validate(swept), full))
        assert "none" in text.get()
        assert "deploy no tolerance on model activations" in " ".join(text.get().split())
