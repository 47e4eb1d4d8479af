"""Faults that ended the engine have no output: the page shows them as what they are, and does not stumble over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.core.schema import ROW_COLUMNS, arrow_schema
from testbed.report import build_report
from testbed.report.read.worst_rows import worst_ended, worst_nonfinite, worst_predictions
from tests.support.report_pages import Page, copy_of, worst_articles

ENDED = {"outcome": "due", "nonfinite": None, "top1_faulty": None, "margin_faulty": None, "mismatches": None}


@pytest.fixture
def run(run_of: Callable[..., Path], tmp_path: Path) -> Path:
    """The two surest predictions that activation faults overturned were not overturned: the engine crashed, or hung."""
    run = copy_of(run_of(), tmp_path)
    rows = pq.read_table(run / "results.parquet").to_pylist()
    for due, fault in zip(("crash", "hang"), worst_predictions(run, "activation", 2), strict=True):
        row = next(r for r in rows if (r["fault_id"], r["image_id"]) == (fault.fault_id, fault.image_id))
        row.update(ENDED, due=due)
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(ROW_COLUMNS)), run / "results.parquet")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["execute"]["outputs"]["results.parquet"] = sha256_file(run / "results.parquet")
    (run / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    return run


def test_they_are_a_group_of_their_own(run: Path) -> None:
    ended = worst_ended(run, "activation", 5)
    assert sorted(str(fault.due) for fault in ended) == ["crash", "hang"]
    assert worst_ended(run, "weight", 5) == []
    ids = {fault.fault_id for fault in ended}
    others = worst_predictions(run, "activation", 50) + worst_nonfinite(run, "activation", 50)
    assert ids.isdisjoint(fault.fault_id for fault in others)
    assert all(fault.due is None for fault in others)


def test_they_are_shown_without_a_class_or_a_margin(run: Path) -> None:
    report = build_report(run)
    shown = [a for a in worst_articles(report) if a["heading"] == "Activations: no output, the engine ended"]
    assert {int(a["fault"]) for a in shown} == {fault.fault_id for fault in worst_ended(run, "activation", 5)}
    for article in shown:
        wrong = article["article"].partition('class="wrong">')[2].partition("</span>")[0]
        assert wrong in ("crash", "hang")
    assert "DUE" in Page(report).text
