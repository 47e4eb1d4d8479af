"""The fault lens on the page: only where a campaign has one, and its numbers are the record's."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from testbed.core.errors import StaleArtefact
from testbed.core.folder.runfolder import RunFolder
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import rate
from testbed.report.page import REPORT
from testbed.report.stage import report_stage
from testbed.sensitivity.campaign_lens.record import read_lens
from tests.support.commands import invoke

HEADING = "Inside the model: how deep faults go"


def test_the_page_shows_the_lens_that_lies_beside_the_campaign(tiny_copy: Path) -> None:
    report_stage(tiny_copy)
    assert HEADING not in (tiny_copy / REPORT).read_text()
    ran = invoke("fault", "lens", tiny_copy, "--sample", 20, "--where", "activation", "--op", "flip")
    assert ran.exit_code == 0, ran.output
    report_stage(tiny_copy)
    page = html.unescape((tiny_copy / REPORT).read_text())
    assert HEADING in page
    record = read_lens(RunFolder.existing(tiny_copy))
    assert record is not None
    (model,) = record.models
    for group in model.groups:
        for estimate in (group.absorbed, group.taken_over, group.repaired):
            shown = rate(RateEstimate(estimate.value, estimate.low, estimate.high, estimate.n, estimate.n))
            assert f"<td>{shown}</td>" in page
    assert "AUC, same block and bits" in page
    written = (tiny_copy / REPORT).stat().st_mtime_ns
    report_stage(tiny_copy)
    assert (tiny_copy / REPORT).stat().st_mtime_ns == written  # nothing changed
    (tiny_copy / "lens.json").write_text("{}")
    with pytest.raises(StaleArtefact, match="run `testbed fault lens "):
        report_stage(tiny_copy)
