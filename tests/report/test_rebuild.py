from __future__ import annotations

import json
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


def test_the_page_is_made_again_and_the_manifest_knows_it(run_copy: Path) -> None:
    report_stage(run_copy)
    made = (run_copy / "report.html").read_bytes()
    (run_copy / "report.html").write_text("edited")
    with pytest.raises(StaleArtefact, match=r"report\.html"):
        report_stage(run_copy)
    assert rebuild_report(run_copy) == run_copy / "report.html"
    assert (run_copy / "report.html").read_bytes() == made
    RunFolder.existing(run_copy).verify("report")
    assert build_report(run_copy).read_bytes() == made  # whether or not the manifest knows of a report
    report_stage(run_copy)


def test_an_unfinished_campaign_is_refused(run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    del manifest["stages"]["summary"]
    (run_copy / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    with pytest.raises(StaleArtefact, match="run the campaign to the end first"):
        rebuild_report(run_copy)


def test_command(run_copy: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(run_copy)], prog_name="testbed")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{run_copy / 'report.html'}\n"
    done = CliRunner().invoke(cli, ["report", str(run_copy), "--json"], prog_name="testbed")
    assert json.loads(done.stdout) == {"report": str(run_copy / "report.html")}


def test_command_names_a_changed_file(run_copy: Path) -> None:
    (run_copy / "results.parquet").write_bytes(b"")
    done = CliRunner().invoke(cli, ["report", str(run_copy)], prog_name="testbed")
    assert done.exit_code == 1
    assert "results.parquet was edited or truncated" in done.stderr
    assert done.stderr.count("\n") == 1
