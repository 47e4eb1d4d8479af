"""The report as the last stage of a campaign: made again only when the summary changed."""

from __future__ import annotations

from pathlib import Path

from testbed.core.runfolder import RunFolder
from testbed.report.page import REPORT, build_report


def report_stage(run: Path) -> None:
    """Writes report.html into a finished campaign's folder, unless it is there and of this summary."""
    folder = RunFolder.existing(run)
    inputs = {"summary": folder.output_hash("summary", "summary.json")}

    def build() -> None:
        build_report(run)

    folder.stage("report", inputs, [REPORT], build)
