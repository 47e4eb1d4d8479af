"""What is told of a campaign with a [protect] table before it runs, while it runs, and on its page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import testbed
from tests.support.commands import answer, invoke
from tests.support.protect_table import table_values


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    return written(tmp_path / "spec.toml", table_values())


def written(path: Path, values: dict[str, Any]) -> Path:
    """The values as TOML; JSON's lists, numbers and texts are TOML's."""
    lines: list[str] = []
    for key, value in values.items():
        if not isinstance(value, dict) and key != "faults":
            lines.append(f"{key} = {json.dumps(value)}")
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *(f"{name} = {_toml(inner)}" for name, inner in value.items())]
    for section in values["faults"]:
        lines += ["[[faults]]", *(f"{name} = {_toml(inner)}" for name, inner in section.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def counted(folder: Path) -> tuple[int, int]:
    """Faults and rows of a finished campaign."""
    summary = json.loads((folder / "summary.json").read_text())
    return summary["faults"], summary["rows"]


def test_a_dry_run_tells_the_faults_of_both(protected_campaign: Path, spec_file: Path, tmp_path: Path) -> None:
    dry = answer("campaign", "run", spec_file, "--run", tmp_path / "run", "--dry-run")
    assert (dry["faults"], dry["rows"]) == counted(protected_campaign)
    protected = dry["protected"]
    assert (protected["faults"], protected["rows"]) == counted(protected_campaign / "protected/campaign")
    assert protected["estimated_seconds"] >= 0
    assert not (tmp_path / "run").exists()
    shown = invoke("campaign", "run", spec_file, "--run", tmp_path / "run", "--dry-run").stdout
    assert f"both campaigns: {dry['faults'] + protected['faults']:,} faults" in shown
    there = answer("campaign", "run", spec_file, "--run", protected_campaign, "--dry-run")
    assert there["protected"]["faults"] == protected["faults"]


def test_a_plan_tells_both(protected_campaign: Path, spec_file: Path) -> None:
    plan = answer("campaign", "plan", spec_file, "--by", "block", "--seconds-per-row", "0.5")
    faults, rows = counted(protected_campaign / "protected/campaign")
    assert plan["protected"]["drawn"] == {"faults": faults, "rows": rows, "seconds": rows * 0.5}
    assert plan["totals"]["drawn"]["faults"] == counted(protected_campaign)[0]
    assert testbed.plan(spec_file, by="block").protected is not None


def test_a_spec_without_the_table_is_told_as_before(tmp_path: Path) -> None:
    spec = written(tmp_path / "spec.toml", table_values(None))
    assert "protected" not in answer("campaign", "run", spec, "--run", tmp_path / "run", "--dry-run")
    assert "protected" not in answer("campaign", "plan", spec, "--by", "block")


def test_the_finished_one_is_told_with_its_comparison(
    protected_campaign: Path, spec_file: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(protected_campaign, tmp_path / "copy")
    told = answer("campaign", "run", spec_file, "--run", copy)
    assert told.pop("comparison") == json.loads((copy / "comparison/comparison.json").read_text())
    assert told == answer("campaign", "show", copy)
    status = answer("campaign", "status", copy)
    assert (status["state"], status["protected"]["part"]) == ("finished", "done")
    assert testbed.read_status(copy).part == "done"
    again = answer("protect", "compare", copy)
    assert again["groups"] == json.loads((copy / "comparison/comparison.json").read_text())["groups"]


def test_the_page_says_what_protection_bought(protected_campaign: Path) -> None:
    page = (protected_campaign / "report.html").read_text()
    (section,) = re.findall(r'<section id="bought">.*?</section>', page, re.S)
    compared = json.loads((protected_campaign / "comparison/comparison.json").read_text())
    assert f"{compared['pairing']['rows']:,} rows pair" in section
    assert 'href="protected/campaign/report.html"' in section
    groups = [group for group in compared["groups"] if group["by"] in ("all", "kind")]
    shown = [g for g in groups if g["outside"]["before"]["rate"] + g["outside"]["after"]["rate"] > 0]
    (table,) = re.findall(r'<table[^>]*data-figure="bought-outside">.*?</table>', section, re.S)
    assert len(re.findall(r"<tr", table)) == 1 + len(shown)
    assert 'id="bought"' not in (protected_campaign / "protected/campaign/report.html").read_text()
