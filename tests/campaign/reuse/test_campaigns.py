"""Campaigns that share a cache: the same rows as without one, and folders that stand alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import testbed
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.folder.runfolder import RunFolder
from testbed.testing import open_campaign
from tests.support.campaigns import TINY
from tests.support.commands import invoke

TAKEN = {"export.model", "export.attention", "instrument.model", "instrument.attention", "tune"}


def run(path: Path, cache: Path, *words: str) -> dict[str, Any]:
    """The stages of the tiny campaign's manifest, run from the command line."""
    done = invoke("campaign", "run", TINY, "--run", path, "--workers", 0, "--cache", cache, *words)
    assert done.exit_code == 0, done.output
    stages: dict[str, Any] = json.loads((path / "manifest.json").read_text())["stages"]
    return stages


def taken(stages: dict[str, Any]) -> set[str]:
    return {name for name, record in stages.items() if record["facts"].get("cache")}


def same_results(one: Path, other: Path) -> bool:
    names = ("faults.parquet", "results.parquet", "model.onnx", "attention.twin.onnx", "model.sites.json")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> tuple[Path, Path]:
    """A cache, and the folder of the campaign that filled it."""
    base = tmp_path_factory.mktemp("shared")
    stages = run(base / "first", base / "cache")
    assert taken(stages) == set()
    return base / "cache", base / "first"


def test_rows_are_those_without_a_cache_bit_for_bit(
    shared: tuple[Path, Path], tiny_run: Path, tmp_path: Path, cache_dir: Path
) -> None:
    cache, first = shared
    stages = run(tmp_path / "second", cache)
    assert taken(stages) == TAKEN | {"gates"}
    assert same_results(first, tiny_run)
    assert same_results(tmp_path / "second", tiny_run)
    read = [json.loads((path / "summary.json").read_text()) for path in (tiny_run, tmp_path / "second")]
    for key in (
        "strata",
        "marginals",
        "zero_fault",
        "drift",
        "parity",
        "left_out",
        "evaluated_by",
        "engine",
        "engines",
    ):
        assert read[0][key] == read[1][key], key
    assert read[0]["notes"] == []
    (note,) = read[1]["notes"]
    assert "results are taken from the cache, as passed on" in note


def test_a_run_folder_needs_the_cache_no_more(shared: tuple[Path, Path], tiny_run: Path, tmp_path: Path) -> None:
    """It is moved, the cache is gone, and the campaign goes on."""
    cache = shutil.copytree(shared[0], tmp_path / "cache")
    run(tmp_path / "second", cache)
    shutil.rmtree(cache)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "second").rename(tmp_path / "elsewhere" / "moved")
    assert invoke("campaign", "run", TINY, "--run", moved, "--workers", 0, "--redo", "plan").exit_code == 0
    assert same_results(moved, tiny_run)
    stages = json.loads((moved / "manifest.json").read_text())["stages"]
    assert taken(stages) == TAKEN | {"gates"}  # as they were
    assert not cache.exists()
    with testbed.open_run(moved) as opened:
        row = opened.results.iloc[0]
        assert opened.replay(int(row.fault_id)).outcome == row.outcome


def test_a_stage_that_is_redone_ignores_the_cache(shared: tuple[Path, Path], tiny_run: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(shared[0], tmp_path / "cache")
    assert taken(run(tmp_path / "run", cache, "--redo", "gates")) == TAKEN
    assert taken(run(tmp_path / "run", cache, "--redo", "instrument.model")) == {"export.model"}
    assert same_results(tmp_path / "run", tiny_run)
    assert taken(run(tmp_path / "other", cache)) == TAKEN | {"gates"}


def test_a_damaged_export_is_told_and_made_again(shared: tuple[Path, Path], tiny_run: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(shared[0], tmp_path / "cache")
    (file,) = cache.glob("prepared/*/attention.onnx")
    file.write_bytes(file.read_bytes()[:-1])
    done = invoke("campaign", "run", TINY, "--run", tmp_path / "run", "--workers", 0, "--cache", cache)
    assert done.exit_code == 0
    lines = [line for line in done.stderr.splitlines() if "is not used" in line]
    assert len(lines) == 1
    assert lines[0].endswith("attention.onnx was edited or truncated; export.attention is made again")
    assert same_results(tmp_path / "run", tiny_run)


def test_every_way_to_run_a_campaign_takes_the_folder(
    shared: tuple[Path, Path], tiny_spec: CampaignSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_campaign(tiny_spec, tmp_path / "tool", cache=shared[0]):
        pass
    assert taken(RunFolder.existing(tmp_path / "tool").manifest["stages"]) == TAKEN | {"gates"}
    with testbed.run(TINY, tmp_path / "api", workers=0, cache=shared[0]) as opened:
        assert taken(opened.folder.manifest["stages"]) == TAKEN | {"gates"}
    monkeypatch.setenv("TESTBED_CACHE", str(shared[0]))
    with open_campaign(tiny_spec, tmp_path / "named"):
        pass
    assert taken(RunFolder.existing(tmp_path / "named").manifest["stages"]) >= {"tune", "gates"}


def test_a_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = invoke("campaign", "run", TINY, "--run", tmp_path / "run", "--cache", tmp_path / "file")
    assert done.exit_code == 2
    assert "is a file" in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_is_cached_is_shown_and_cleared(shared: tuple[Path, Path], tmp_path: Path) -> None:
    cache = shutil.copytree(shared[0], tmp_path / "cache")
    told = json.loads(invoke("cache", "--cache", cache, "--json").stdout)
    assert told["folder"] == str(cache)
    entries = {kind["kind"]: kind["files"] for kind in told["kinds"]}
    assert entries["prepared"] == len(TAKEN) + 14
    cleared = json.loads(invoke("cache", "clear", "--cache", cache, "--older-than", 1, "--json").stdout)
    assert sum(kind["files"] for kind in cleared["removed"]) == 0
    cleared = json.loads(invoke("cache", "clear", "--cache", cache, "--only", "prepared", "--json").stdout)
    assert {kind["kind"]: kind["files"] for kind in cleared["removed"]} == {"prepared": entries["prepared"]}
    assert list((cache / "prepared").iterdir()) == []


@pytest.mark.slow
def test_two_campaigns_may_fill_and_use_one_cache_at_once(tiny_run: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "testbed", "campaign", "run", str(TINY), "--cache", str(tmp_path / "cache")]
    folders: list[Path] = []
    for round_ in range(2):
        folders = [tmp_path / f"{name}{round_}" for name in ("a", "b")]
        running = [subprocess.Popen([*words, "--run", str(folder)]) for folder in folders]
        assert [process.wait(900) for process in running] == [0, 0]
        assert all(same_results(folder, tiny_run) for folder in folders)
    for folder in folders:
        assert taken(RunFolder.existing(folder).manifest["stages"]) == TAKEN | {"gates"}
    assert pq.read_metadata(folders[0] / "results.parquet").num_rows > 0
    assert not list(tmp_path.rglob(".*unfinished*"))
