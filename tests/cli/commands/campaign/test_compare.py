"""``testbed campaign compare``: its tables, its JSON, its file, and one line for everything that is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from testbed.core.folder.files import sha256_file, sha256_json
from testbed.core.folder.manifest import checksummed
from tests.support.commands import error_of, invoke, strict_json


def compare(*arguments: object) -> Result:
    return invoke("campaign", "compare", *arguments)


@pytest.fixture
def other_run(tiny_run: Path, tmp_path: Path) -> Path:
    """The tiny campaign with another top-1 in every tolerable row of an even fault."""
    folder = Path(shutil.copytree(tiny_run, tmp_path / "other"))
    path = folder / "results.parquet"
    table = pq.read_table(path)
    rows = table.to_pandas()
    outcome = rows.outcome.astype(str)
    rows["outcome"] = outcome.where(~((outcome == "sdc_tolerable") & (rows.fault_id % 2 == 0)), "sdc1")
    pq.write_table(pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"]["execute"]["outputs"]["results.parquet"] = sha256_file(path)
    (folder / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    return folder


@pytest.fixture
def other_precision(tiny_run: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "fp16"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["spec"]["engine"]["precision"] = "fp16"
    for section in manifest["spec"]["faults"]:
        section["bits"] = "all"
    manifest["identity"] = sha256_json(manifest["spec"])
    (folder / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    return folder


def test_the_tables_tell_agreement_kappa_and_disagreements(tiny_run: Path, other_run: Path) -> None:
    result = compare(tiny_run, other_run)
    assert result.exit_code == 0
    assert result.stdout.startswith("A  fp32 on ort-cpu, activations, flip: SDC-1 ")
    for part in (
        "ort-cpu fp32",
        "bits held",
        "95 % intervals",
        "kappa",
        "model activations",
        "A \\ B",
        "another top-1 in one only",
    ):
        assert part in result.stdout
    assert result.stderr == ""


def test_rows_are_capped_in_print_and_whole_in_json(tiny_run: Path, other_run: Path) -> None:
    compared = json.loads(compare(tiny_run, other_run, "--json").stdout)
    assert len(compared["disagreements"]["listed"]) == compared["disagreements"]["rows"] > 10
    shown = {
        rows: compare(tiny_run, other_run, "--rows", rows).stdout.count("sdc_tolerable | sdc1") for rows in (0, 3, 7)
    }
    assert shown == {0: 0, 3: 3, 7: 7}
    assert f"of {compared['disagreements']['rows']:,} " in compare(tiny_run, other_run).stdout


def test_json_is_one_object_without_nan(tiny_run: Path) -> None:
    compared = strict_json(compare(tiny_run, tiny_run, "--json").stdout)
    assert {record["kappa"]["value"] for record in compared["agreement"]} <= {1, None}
    assert compared["disagreements"] == {"rows": 0, "by_cause": [], "listed": []}


def test_full_agreement_is_said_in_words(tiny_run: Path) -> None:
    result = compare(tiny_run, tiny_run)
    assert result.exit_code == 0
    assert "no row disagrees" in result.stdout
    assert "one outcome only" in result.stdout


def test_to_writes_every_row(tiny_run: Path, other_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "tables" / "all.csv"
    compared = json.loads(compare(tiny_run, other_run, "--json", "--to", path).stdout)
    assert len(pd.read_csv(path)) == compared["disagreements"]["rows"]


def test_two_precisions_give_rates_per_role(tiny_run: Path, other_precision: Path, tmp_path: Path) -> None:
    result = compare(tiny_run, other_precision, "--to", tmp_path / "roles.parquet")
    assert result.exit_code == 0
    for part in ("flip, exponent", "random, word", "A - B", "the faults that pair", "fp32 in A and fp32 in B", "SDC-1"):
        assert part in result.stdout
    roles = json.loads(compare(tiny_run, other_precision, "--json").stdout)["roles"]
    assert len(pd.read_parquet(tmp_path / "roles.parquet")) == len(roles)


def test_mistakes_are_one_line(tiny_run: Path, tmp_path: Path) -> None:
    assert "holds no run" in error_of(compare(tiny_run, tmp_path / "none"), 2)
    assert ".csv or .parquet" in error_of(compare(tiny_run, tiny_run, "--to", tmp_path / "all.xlsx"), 2)
    assert "DIR_B" in error_of(compare(tiny_run), 2)
    assert not list(tmp_path.iterdir())


def test_help_has_an_example() -> None:
    result = compare("-h")
    assert result.exit_code == 0
    assert "testbed campaign compare runs/digits" in result.stdout
