from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed.cli.main import cli
from testbed.core.errors import StaleArtefact
from testbed.core.folder.manifest import checksummed
from testbed.core.folder.runfolder import RunFolder
from testbed.report import build_report
from testbed.report.rebuild import rebuild_report
from testbed.report.stage import report_stage


@pytest.fixture
def run(run_of: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_of(), tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))


def test_the_page_is_made_again_and_the_manifest_knows_it(run: Path) -> None:
    report_stage(run)
    made = (run / "report.html").read_bytes()
    (run / "report.html").write_text("edited")
    with pytest.raises(StaleArtefact, match=r"report\.html"):
        report_stage(run)
    assert rebuild_report(run) == run / "report.html"
    assert (run / "report.html").read_bytes() == made
    RunFolder.existing(run).verify("report")
    assert build_report(run).read_bytes() == made  # whether or not the manifest knows of a report
    report_stage(run)


def test_an_unfinished_campaign_is_refused(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["stages"]["summary"]
    (run / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    with pytest.raises(StaleArtefact, match="run the campaign to the end first"):
        rebuild_report(run)


def test_command(run: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(run)], prog_name="testbed")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{run / 'report.html'}\n"
    done = CliRunner().invoke(cli, ["report", str(run), "--json"], prog_name="testbed")
    assert json.loads(done.stdout) == {"report": str(run / "report.html")}


def test_command_names_a_changed_file(run: Path) -> None:
    (run / "results.parquet").write_bytes(b"")
    done = CliRunner().invoke(cli, ["report", str(run)], prog_name="testbed")
    assert done.exit_code == 1
    assert "results.parquet was edited or truncated" in done.stderr
    assert done.stderr.count("\n") == 1
