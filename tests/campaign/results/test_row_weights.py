"""Rows carry their weight: whoever counts them with it gets the told rates, in fixed and in adaptive campaigns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import testbed
from testbed.campaign.results.row_weights import RowWeights
from testbed.core.errors import UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.core.folder.runfolder import RunFolder

MODEL = ["target", "where", "op", "pattern", "scope"]
DIMENSIONS = ["tier", "kind", "bit_class", "bit", "block", "site"]


@pytest.fixture(scope="module", params=["fixed", "adaptive"])
def finished(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue("tiny_run" if request.param == "fixed" else "adaptive_run"))


def events(rows: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "sdc1": rows.outcome == "sdc1",
        "outside": ~rows.outcome.isin(["identical", "masked"]),
        "nonfinite": rows.nonfinite.fillna(False).astype(bool),
    }


def test_weighted_means_of_rows_are_the_told_rates(finished: Path) -> None:
    with testbed.open_run(finished) as run:
        rows = run.results
    seen, apart, checked = events(rows), 0.0, 0
    for told in json.loads((finished / "summary.json").read_text())["marginals"]:
        mine = (rows["scope"] == told["scope"]) & (rows["pattern"] == told["pattern"])
        for key in ("target", "where", "op"):
            mine &= rows[key] == told[key]
        if told["by"] != "all":
            mine &= rows[told["by"]] == told["value"]
        weight = rows.weight[mine]
        assert len(weight) == told["n"]
        for measure, rate in told["rates"].items():
            if rate is not None:
                assert float(weight @ seen[measure][mine]) / weight.sum() == pytest.approx(rate["rate"], abs=1e-9)
                apart = max(apart, abs(seen[measure][mine].mean() - rate["rate"]))
                checked += 1
    assert checked > 30
    assert apart > 0.01  # counting without weights would not have done


def test_the_weights_of_a_stratum_add_up_to_its_population(finished: Path) -> None:
    rows = pq.read_table(finished / "results.parquet").to_pandas()
    plan = pq.read_table(finished / "faults.parquet").to_pandas()
    np.testing.assert_allclose(rows.groupby("stratum").weight.sum(), plan.groupby("stratum").population.first())
    assert rows.groupby("stratum").weight.nunique().eq(1).all()


@pytest.mark.parametrize("by", ["block", "bit_class", "tier", "bit"])
@pytest.mark.parametrize("measure", ["sdc1", "outside"])
def test_rates_as_a_table_are_the_summarys(finished: Path, by: str, measure: str) -> None:
    with testbed.open_run(finished) as run:
        table = run.rates(by=[by], measure=measure).dropna(subset=[by])
    told = [m for m in json.loads((finished / "summary.json").read_text())["marginals"] if m["by"] == by]
    told = [m for m in told if m["rates"][measure]]
    assert len(table) == len(told) > 0
    for line, wanted in zip(table.to_dict("records"), told, strict=True):
        assert [line[key] for key in (*MODEL, by)] == [wanted[key] for key in MODEL] + [wanted["value"]]
        assert (line["n"], line["faults"]) == (wanted["n"], wanted["faults"])
        ends = ("low", "high", "high_95", "high_99")
        limits = [line[name] for name in ("estimate", *ends)]
        assert limits == pytest.approx([wanted["rates"][measure][name] for name in ("rate", *ends)], abs=1e-9)


def test_rates_by_several_dimensions_at_once(tiny_run: Path) -> None:
    with testbed.open_run(tiny_run) as run:
        table, rows, whole = (
            run.rates(by=["site", "tier"], measure="outside"),
            run.results,
            run.rates(measure="outside"),
        )
        for wrong, told in (({"by": ["blocks"]}, "not by 'blocks'"), ({"measure": "sdc5"}, "no rate of 'sdc5'")):
            with pytest.raises(UsageError, match=told):
                run.rates(**wrong)
    assert not whole.duplicated(MODEL).any()
    assert not table.duplicated([*MODEL, "site", "tier"]).any()
    assert table.n.sum() == whole.n.sum() == len(rows)
    rows = rows.assign(outside=events(rows)["outside"], hit=events(rows)["outside"] * rows.weight)
    sums = rows.groupby([*MODEL, "site", "tier"], observed=True)[["hit", "weight"]].sum()
    for line in table.to_dict("records"):
        found = sums.loc[tuple(line[key] for key in (*MODEL, "site", "tier"))]
        assert line["estimate"] == pytest.approx(found.hit / found.weight)
        assert line["low"] <= line["estimate"] <= line["high"]


def test_flags_are_booleans_also_where_there_are_no_classes(tiny_run: Path) -> None:
    with testbed.open_run(tiny_run) as run:
        rows = run.results
    for flag in ("sdc5", "sdc10", "sdc20", "nonfinite", "detected"):
        assert rows[flag].dtype == "boolean"
    assert rows.sdc10[rows.target == "attention"].isna().all()
    assert rows.sdc10[rows.target == "model"].sum() > 0


def test_tables_of_older_campaigns_are_still_read(tiny_copy: Path) -> None:
    """As version 2 left them: without weights."""
    with testbed.open_run(tiny_copy) as run:
        wanted, rates = run.results, run.rates(by="block")
    for file in ("results.parquet", "faults.parquet"):
        table = pq.read_table(tiny_copy / file)
        if file == "results.parquet":
            table = table.drop_columns(["weight"])
            place = table.column_names.index("schema_version")
            table = table.set_column(place, "schema_version", pa.array(np.full(len(table), 2, np.int16)))
        pq.write_table(table.replace_schema_metadata({"schema_version": "2"}), tiny_copy / file)
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    manifest["schema_version"] = 2
    for stage, file in (("plan", "faults.parquet"), ("execute", "results.parquet")):
        manifest["stages"][stage]["outputs"][file] = sha256_file(tiny_copy / file)
    (tiny_copy / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    assert RunFolder.existing(tiny_copy).manifest["schema_version"] == 2
    with testbed.open_run(tiny_copy) as run:
        found = run.results
        pd.testing.assert_frame_equal(run.rates(by="block"), rates)
    np.testing.assert_allclose(found.weight, wanted.weight)


def test_a_fault_of_every_image_has_a_row_for_each(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "stratum": pa.array([2, 2, 0, 2], pa.int32()),
        "population": pa.array([50, 50, 7, 50], pa.int64()),
        "image_id": pa.array([None, None, "a", None]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "faults.parquet")
    found = RowWeights.of(tmp_path / "faults.parquet", images=10)
    assert found.rows.tolist() == [1, 0, 30]
    rows = found.added(pa.table({"stratum": pa.array([0, 2, 2], pa.int32())})).to_pandas()
    assert rows.weight.tolist() == [7, 50 / 30, 50 / 30]
