"""Folders that no page is made of: none, changed, of another schema, without the columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.report import build_report
from tests.support.report_pages import change_summary, copy_of


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        build_report(tmp_path)


@pytest.mark.parametrize(
    ("file", "stage"), [("results.parquet", "execute"), ("faults.parquet", "plan"), ("summary.json", "summary")]
)
@pytest.mark.parametrize("harm", ["edited", "gone"])
def test_changed_files_are_refused_by_name(
    run_of: Callable[..., Path], tmp_path: Path, file: str, stage: str, harm: str
) -> None:
    run = copy_of(run_of(), tmp_path)
    if harm == "edited":
        (run / file).write_bytes((run / file).read_bytes()[:-1])
    else:
        (run / file).unlink()
    with pytest.raises(StaleArtefact, match=rf"{re.escape(file)}.*--redo {stage}"):
        build_report(run)
    assert not (run / "report.html").exists()


def test_a_summary_of_another_schema_is_refused(run_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(run_of(), tmp_path)
    change_summary(run, schema_version=99)
    with pytest.raises(StaleArtefact, match="schema version 99"):
        build_report(run)


def test_a_summary_of_another_kind_is_refused(run_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(run_of(), tmp_path)
    change_summary(run, marginals=[{"by": "all"}])
    with pytest.raises(StaleArtefact, match="not a campaign's summary"):
        build_report(run)


def test_rows_without_the_columns_are_refused(run_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(run_of(), tmp_path)
    pd.DataFrame({"fault_id": [1]}).to_parquet(run / "results.parquet")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["execute"]["outputs"]["results.parquet"] = sha256_file(run / "results.parquet")
    (run / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    with pytest.raises(
        StaleArtefact,
        match=r"results\.parquet is no table of results: column '.*' is missing; rerun with .* --redo execute`",
    ):
        build_report(run)
