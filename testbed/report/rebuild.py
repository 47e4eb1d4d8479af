"""The report again, for a campaign that is finished: with another version of testbed, or with the images at hand."""

from __future__ import annotations

from pathlib import Path

from testbed.campaign.folder.claim import recorded_spec
from testbed.core.folder.runfolder import RunFolder
from testbed.report.page import REPORT
from testbed.report.stage import report_stage


def rebuild_report(run: Path) -> Path:
    """Writes report.html anew, notes its hash in the manifest, and returns its path.

    Raises UsageError for a folder without a run, StaleArtefact for an unfinished one or changed files.
    """
    folder = RunFolder.existing(run)
    recorded_spec(folder)
    folder.verify("summary")
    with folder.locked():
        folder.redo("report", ["report"])
        folder.save()
        report_stage(run)
    return run / REPORT
