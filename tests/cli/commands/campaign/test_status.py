"""``testbed campaign status``, what a terminal shows meanwhile, and the options that say who runs the faults."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from testbed.api.progress_text import bar, duration
from testbed.campaign.results.snapshot import Snapshot, Widest
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.cli.options.worker_setup import words_of, work_options
from testbed.cli.watch import watch_on_stderr
from testbed.core.folder.runfolder import RunFolder
from tests.support.commands import invoke
from tests.support.terminals import Terminal

SNAPSHOT = Snapshot(
    stage="execute",
    units=10,
    units_done=4,
    faults=4000,
    faults_done=1600,
    faults_per_second=812.4,
    eta_s=3671.0,
    outcomes={"masked": 1200, "sdc1": 400},
    widest=Widest("model activation, block 3", 57, 0.0312),
    workers=4,
    updated="2025-01-01T00:00:00+00:00",
)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    folder = RunFolder.claimed(tmp_path / "run", "campaign", "toy", {}, [])
    (tmp_path / "run").mkdir()
    folder.manifest["stages"]["plan"] = {"inputs": {}, "outputs": {}, "facts": {"faults": 4000}}
    folder.save()
    return tmp_path / "run"


def test_status_of_an_interrupted_campaign(begun: Path) -> None:
    result = invoke("campaign", "status", begun)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "toy: interrupted after stage 'plan'; the command that began it goes on with it",
        f"{'─' * 24} 0 of 4,000 faults (0 %)",
    ]
    told = json.loads(invoke("campaign", "status", begun, "--json").stdout)
    assert (told["state"], told["faults"], told["faults_done"]) == ("interrupted", 4000, 0)


def test_status_where_there_is_none(tmp_path: Path) -> None:
    result = invoke("campaign", "status", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path} holds no run")
    assert result.stderr.count("\n") == 1


def test_a_terminal_shows_it_and_anything_else_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    shown = {}
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with watch_on_stderr() as show:
            show(SNAPSHOT)
        shown[stream.isatty()] = stream.getvalue()
    assert shown[False] == ""
    for told in (
        "1,600 of 4,000 faults (40 %), 812/s, about 1 h 1 min to go, 4 workers",
        "masked 1,200 (75 %), sdc1 400 (25 %)",
        "widest interval now about ±3.1 points at 95 %: model activation, block 3 (57 faults)",
    ):
        assert told in shown[True]


def test_durations_and_bars() -> None:
    assert [duration(s) for s in (0, 59.6, 61, 3600, 200_000)] == ["0 s", "1 min", "1 min 1 s", "1 h", "2 d 7 h"]
    assert bar(0.5, 4) == "━━──"
    assert bar(1.5, 4) == "━━━━"


@click.command()
@work_options
@click.argument("name")
def working(name: str, worker_setup: WorkerSetup) -> None:
    click.echo(f"{name} {worker_setup}")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], WorkerSetup(1, None)),
        (["--workers", "0"], WorkerSetup(0, None)),
        (["--workers", "3"], WorkerSetup(3, None)),
        (["--scheduler", "tcp://h:1"], WorkerSetup(1, "tcp://h:1")),
        (["--scheduler", "tcp://h:1", "--insecure"], WorkerSetup(1, "tcp://h:1", insecure=True)),
        (["--scheduler", "tls://h:1", "--recheck", "0.1"], WorkerSetup(1, "tls://h:1", recheck=0.1)),
    ],
)
def test_who_works_is_one_option_or_the_other(arguments: list[str], wanted: WorkerSetup) -> None:
    result = CliRunner().invoke(working, ["x", *arguments])
    assert result.output == f"x {wanted}\n"
    assert words_of(wanted) == arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "2", "--scheduler", "tcp://h:1"],
        ["--workers", "-1"],
        ["--insecure"],
        ["--recheck", "0.5"],
        ["--scheduler", "tls://h:1", "--recheck", "2"],
    ],
)
def test_a_workforce_that_makes_no_sense(arguments: list[str]) -> None:
    assert CliRunner().invoke(working, ["x", *arguments]).exit_code == 2
