"""Plans and results of other writers: taken where they mean the same, refused by column and file where they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from testbed.campaign.results.reader import PLAN_TABLE, RESULT_TABLE, list_values, populations_of
from testbed.cli.main import cli
from testbed.core.errors import StaleArtefact
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed

Change = Callable[[pa.Table], pa.Table]
RESULTS, PLAN = "results.parquet", "faults.parquet"


def with_column(name: str, made: Callable[[pa.ChunkedArray], Any]) -> Change:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, made(table.column(name)))

    return change


def text_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def by_another_program(table: pa.Table) -> pa.Table:
    """Plain large text and wide integers, no Arrow schema of ours."""
    for place, name in enumerate(table.column_names):
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            table = table.set_column(place, name, text_of(column).cast(pa.large_string()))
        elif pa.types.is_integer(column.type):
            table = table.set_column(place, name, column.cast(pa.int64()))
    return table


def rewritten(folder: Path, file: str, change: Change) -> Path:
    """The manifest knows of it: as if another program had written the run."""
    table = pq.read_table(folder / file)
    pq.write_table(change(table).replace_schema_metadata({"schema_version": "3"}), folder / file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"]["execute" if file == RESULTS else "plan"]["outputs"][file] = sha256_file(folder / file)
    (folder / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    return folder


def values_of(table: pa.Table) -> list[Any]:
    """Bit for bit."""
    return [(name, str(text_of(table.column(name)).to_pylist())) for name in table.column_names]


def test_our_own_tables_are_read_as_they_are(tiny_run: Path, adaptive_run: Path) -> None:
    for run in (tiny_run, adaptive_run):
        for form, file in ((RESULT_TABLE, RESULTS), (PLAN_TABLE, PLAN)):
            found, there = form.read(run / file), pq.read_table(run / file)
            assert found.schema.equals(there.schema, check_metadata=True)
            assert values_of(found) == values_of(there)
            assert form.rows(run / file) == pq.read_metadata(run / file).num_rows


def test_a_table_of_another_program_means_the_same(tiny_run: Path, tmp_path: Path) -> None:
    for form, file in ((RESULT_TABLE, RESULTS), (PLAN_TABLE, PLAN)):
        ours = pq.read_table(tiny_run / file)
        pq.write_table(by_another_program(ours), tmp_path / file, store_schema=False)
        theirs = form.read(tmp_path / file)
        assert [str(kind) for kind in theirs.schema.types] == [str(kind) for kind in ours.schema.types]
        assert values_of(theirs) == values_of(ours)
        parts = list(form.batches(tmp_path / file, ["fault_id", "site"], 1000))
        assert [row for part in parts for row in part.to_pylist()] == ours.select(["fault_id", "site"]).to_pylist()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_column("tier", lambda column: column.cast(pa.string())), "column 'tier' is of type string, not int16"),
        (with_column("site", lambda column: pa.array(range(len(column)))), "column 'site' is of type int64"),
        (
            with_column("logits", lambda column: column.cast(pa.list_(pa.float32())).is_null()),
            "'logits' is of type bool",
        ),
        (with_column("fault_id", lambda column: pc.if_else(pc.equal(column, 7), None, column)), "'fault_id' has nulls"),
        (with_column("tier", lambda column: pc.subtract(column, 1)), "'tier' has -1, which is none of 0 to 999"),
        (with_column("stratum", lambda column: pc.add(column.cast(pa.int64()), 2**30)), "'stratum' has 1073742"),
        (with_column("bit", lambda column: pc.add(column.cast(pa.int64()), 2**20)), "'bit' does not fit int16"),
        (
            with_column("outcome", lambda column: pa.array(["fine"] * len(column))),
            "'outcome' has 'fine', which is none",
        ),
        (lambda table: table.append_column("tier", table.column("tier")), "column 'tier' is there twice"),
    ],
)
def test_what_makes_no_sense_is_refused_by_column_and_file(
    tiny_run: Path, tmp_path: Path, change: Change, told: str
) -> None:
    path = tmp_path / RESULTS
    pq.write_table(change(pq.read_table(tiny_run / RESULTS)), path)
    with pytest.raises(StaleArtefact) as caught:
        list(RESULT_TABLE.batches(path, [*RESULT_TABLE.schema.names]))
    assert str(caught.value).startswith(f"{path} is no table of results: ")
    assert told in str(caught.value)
    assert str(caught.value).endswith("; rerun with `testbed campaign run SPEC --redo execute`")


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"junk" * 100, None])
def test_a_file_that_is_none_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / PLAN
    path.mkdir() if damage is None else path.write_bytes(damage)
    for call in (PLAN_TABLE.read, PLAN_TABLE.rows, lambda file: list(PLAN_TABLE.batches(file, ["site"]))):
        with pytest.raises(StaleArtefact, match=r"faults\.parquet is no table of planned faults: .*--redo plan`$"):
            call(path)


def test_populations_are_those_of_the_plan(tiny_run: Path, tmp_path: Path) -> None:
    plan = pq.read_table(tiny_run / PLAN, columns=["fault_id", "population"])
    wanted = np.random.default_rng(0).permutation(plan.column("fault_id").to_numpy())[:500]
    of_fault = dict(zip(*(plan.column(name).to_pylist() for name in ("fault_id", "population")), strict=True))
    assert populations_of(wanted, tiny_run / PLAN).tolist() == [of_fault[fault] for fault in wanted.tolist()]
    with pytest.raises(StaleArtefact, match="lacks faults that there are results of"):
        populations_of(np.array([plan.num_rows]), tiny_run / PLAN)


def test_lists_have_the_length_that_the_spec_says(tmp_path: Path) -> None:
    lists = pa.chunked_array([pa.array([[1.0, 2.0], None], pa.list_(pa.float64())), pa.array([[3.0, 4.0]])])
    np.testing.assert_array_equal(list_values(lists, 1, 2, tmp_path), [2, np.nan, 4])
    with pytest.raises(StaleArtefact, match=r"have \[2, None\] values, not 3"):
        list_values(lists, 1, 3, tmp_path)


COMMANDS = {
    "sweep": ["sweep", "DIR", "--noise", "ort-cpu@16"],
    "compare": ["campaign", "compare", "DIR", "DIR"],
    "replay": ["fault", "replay", "DIR", "3"],
    "rank": ["rank", "DIR", "--by", "measured", "--campaign", "DIR"],
    "report": ["report", "DIR"],
    "status": ["campaign", "status", "DIR"],
}
READ_BY = {
    "sweep": ("fault_id", "outcome", "tier", "masking_atol", "evaluation"),
    "compare": ("bit", "image_id", "masking_atol", "engine_hash"),
    "replay": ("fault_id", "image_id", "logits", "outcome"),
    "rank": ("site", "index", "outcome", "stratum"),
    "report": ("outcome", "margin_golden", "bit_class"),
}


@pytest.mark.parametrize(("command", "column"), [(name, column) for name, names in READ_BY.items() for column in names])
def test_no_command_breaks_on_a_column_that_is_missing(tiny_copy: Path, command: str, column: str) -> None:
    rewritten(tiny_copy, RESULTS, lambda table: table.drop_columns([column]))
    args = [str(tiny_copy) if word == "DIR" else word for word in COMMANDS[command]]
    done = CliRunner().invoke(cli, args, prog_name="testbed")
    assert done.exit_code == 1, done.output
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert (
        f"{RESULTS} is no table of results: column '{column}' is missing; rerun with `testbed campaign run SPEC --redo execute`"
        in last
    )


@pytest.mark.parametrize("file", [RESULTS, PLAN])
def test_status_tells_what_it_can_of_a_damaged_table(tiny_copy: Path, file: str) -> None:
    rewritten(tiny_copy, file, lambda table: table.drop_columns(["fault_id", "stratum"]))
    done = CliRunner().invoke(cli, ["campaign", "status", str(tiny_copy), "--json"], prog_name="testbed")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["state"] == "finished"
