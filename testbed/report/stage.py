"""The report as the last stage of a campaign: made again when the summary changed, or when there is a new sweep, fault
lens or comparison with the protected campaign."""

from __future__ import annotations

from pathlib import Path

from testbed.campaign.summary.summarise import SUMMARY
from testbed.core.folder.places import COMPARISON
from testbed.core.folder.runfolder import RunFolder
from testbed.protect.paired.stored import COMPARED
from testbed.report.page import REPORT, build_report
from testbed.report.read.evidence import read_stored_lens
from testbed.sweep.run import SWEEP, read_sweep

_ADDED = ("sweep", "lens", "comparison")
"""What may come to a finished campaign later."""


def report_stage(run: Path) -> None:
    """Writes report.html into a finished campaign's folder, unless it is there and of this summary, this sweep, this lens
    and this comparison."""
    folder = RunFolder.existing(run)
    inputs = {"summary": folder.output_hash("summary", SUMMARY)}
    if read_sweep(folder) is not None:
        inputs["sweep"] = folder.output_hash("sweep", SWEEP)
    if read_stored_lens(folder) is not None:
        inputs["lens"] = folder.output_hash("lens", "lens.json")
    if folder.record(COMPARISON) is not None:
        inputs["comparison"] = folder.output_hash(COMPARISON, COMPARED)
    record = folder.manifest["stages"].get("report")
    if record is not None and any(record["inputs"].get(name) != inputs.get(name) for name in _ADDED):
        folder.redo("report", ["report"])

    def build() -> None:
        build_report(run)

    folder.stage("report", inputs, [REPORT], build)
