"""Rates of several runs in one table: recomputed from the rows by pandas, and the same as a run's own."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import testbed
from testbed.campaign.summary.rate_table import ENDS
from testbed.core.errors import StaleArtefact, UsageError
from testbed.publish import formats
from testbed.publish.display import rates_display
from testbed.publish.rates import RunRates, read_rates, run_labels
from tests.support.pairs import as_of_engine

MEASURES = ("sdc1", "outside", "nonfinite")


@pytest.fixture(scope="module")
def other(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_of_engine(tiny_run, tmp_path_factory.mktemp("pair") / "other", "openvino")


@pytest.fixture(scope="module")
def rates(tiny_run: Path, other: Path) -> RunRates:
    return read_rates([tiny_run, other], ["block", "bit_class"])


def test_rates_are_weighted_means_of_the_rows(tiny_run: Path) -> None:
    rates = read_rates([tiny_run], ["block", "bit_class"]).table
    with testbed.open_run(tiny_run) as run:
        rows = run.results[lambda rows: rows.target == "model"].copy()
    rows["sdc1"] = rows.outcome == "sdc1"
    rows["outside"] = ~rows.outcome.isin(["identical", "masked"])
    keys = ["where", "op", "block", "bit_class"]
    for measure in MEASURES:
        weighted = rows.assign(hit=rows.weight * rows[measure].astype(float)).astype(
            {"block": "Int64", "bit_class": str}
        )
        sums = weighted.groupby(keys, dropna=False, observed=True)[["hit", "weight"]].sum()
        expected = (sums.hit / sums.weight).rename("expected").reset_index()
        expected = expected.astype({"where": str, "op": str})
        joined = rates[rates.target == "model"].merge(expected, on=keys, how="outer", validate="one_to_one")
        np.testing.assert_allclose(joined[measure], joined.expected, rtol=1e-9, atol=1e-12)


def test_what_has_none_of_the_shown_rates_has_no_line(tiny_run: Path) -> None:
    rates = read_rates([tiny_run])
    assert rates.table.sdc1.isna().any()  # an attention module has no top-1
    lines = rates_display(rates, ("sdc1",)).rows
    assert len(lines) == rates.table.sdc1.notna().sum()
    assert all(all(line) for line in lines)
    assert len(rates_display(rates, MEASURES).rows) == len(rates.table)


def test_they_are_those_of_the_run_itself(tiny_run: Path) -> None:
    table = read_rates([tiny_run], "bit").table
    with testbed.open_run(tiny_run) as run:
        for measure in MEASURES:
            own = run.rates(by="bit", measure=measure)
            mine = table[table[measure].notna()].reset_index(drop=True)
            columns = ["target", "where", "op", "format", "bit", "n", "faults"]
            pd.testing.assert_frame_equal(mine[columns], own[columns])
            for end, name in (("", "estimate"), *((f"_{end}", end) for end in ENDS)):
                np.testing.assert_array_equal(mine[measure + end], own[name])


def test_each_run_has_its_rows_and_says_which_it_is(rates: RunRates, tiny_run: Path, other: Path) -> None:
    first, second = (rates.table[rates.table.run == str(run)] for run in (tiny_run, other))
    assert set(first.engine) == {"ort-cpu"}
    assert set(second.engine) == {"openvino"}
    assert set(first.precision) == {"fp32"}
    same = first.drop(columns=["run", "engine"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(same, second.drop(columns=["run", "engine"]).reset_index(drop=True))
    assert run_labels(rates.table) == {str(tiny_run): "ort-cpu", str(other): "openvino"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"by": "colour"}, "not by 'colour'"),
        ({"ops": ["zap"]}, "unknown fault model 'zap'"),
        ({"twice": True}, "named twice"),
        ({"none": True}, "name the folder of a finished campaign"),
    ],
)
def test_what_is_not_there_is_refused(tiny_run: Path, arguments: dict[str, object], line: str) -> None:
    paths = [] if arguments.pop("none", False) else [tiny_run] * (1 + bool(arguments.pop("twice", False)))
    with pytest.raises(UsageError, match=line):
        read_rates(paths, **arguments)  # type: ignore[arg-type]


def test_rows_that_were_changed_are_refused(tiny_copy: Path) -> None:
    with (tiny_copy / "results.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(StaleArtefact, match=r"results\.parquet"):
        read_rates([tiny_copy])


# ---- formats


def test_csv_and_json_hold_every_number(rates: RunRates) -> None:
    read = pd.read_csv(io.StringIO(formats.rates_csv(rates, MEASURES)))
    np.testing.assert_allclose(read.sdc1_low, rates.table.sdc1_low, rtol=1e-15)
    record = json.loads(json.dumps(formats.rates_record(rates, ["outside"]).to_json(), allow_nan=False))
    assert [row["outside_high"] for row in record["rates"]] == list(rates.table.outside_high)
    assert not [name for name in record["rates"][0] if "sdc1" in name]
    assert {row["block"] for row in record["rates"]} == {0, None}


def test_what_is_the_same_everywhere_is_said_once(rates: RunRates, tiny_run: Path) -> None:
    display = rates_display(rates, MEASURES)
    assert display.headings[0] == "engine"
    assert "model" not in display.headings
    assert display.caption.endswith("rates in % with 95 % intervals")
    alone = rates_display(read_rates([tiny_run], "block", ["flip"]), ["sdc1"])
    assert alone.headings == ("target", "faults in", "block", "faults", "n", "SDC-1 %")
    assert alone.caption.startswith("tiny, digits, ort-cpu, fp32, flip; ")


def test_two_runs_that_differ_in_nothing_are_told_apart_by_their_folders(tiny_run: Path, tiny_copy: Path) -> None:
    display = rates_display(read_rates([tiny_run, tiny_copy]), MEASURES)
    assert display.headings[0] == "run"
    assert {row[0] for row in display.rows} == {str(tiny_run), str(tiny_copy)}


def test_latex_is_a_table_whose_cells_are_those_of_the_display(rates: RunRates) -> None:
    text, display = formats.rates_latex(rates, MEASURES), rates_display(rates, MEASURES)
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    cells = [line.strip().removesuffix(r" \\").split(" & ") for line in body]
    assert [[cell.replace("\\_", "_") for cell in row] for row in cells] == [list(row) for row in display.rows]
    assert re.search(r"\\begin\{tabular\}\{l+r{5}\}", text)
    assert text.count("%") - text.count("\\%") == 1  # the comment that names the package


def test_markdown_has_a_line_per_row(rates: RunRates) -> None:
    lines = formats.rates_markdown(rates, MEASURES).splitlines()
    assert len(lines) == 4 + len(rates.table)
    assert {line.count("|") for line in lines[2:]} == {len(rates_display(rates, MEASURES).headings) + 1}


def test_names_are_text_in_every_format() -> None:
    assert formats.latex(r"a_b & 50% {\x}") == r"a\_b \& 50\% \{\textbackslash{}x\}"
    assert formats.markdown("a|b*c") == r"a\|b\*c"
