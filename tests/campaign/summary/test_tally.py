"""Rows read in pieces and counted, against pandas on all of them; and the rates of fault models that are easily mixed."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from testbed.analysis.survey import SurveyDesign
from testbed.campaign.results.reader import ROW_SCHEMA
from testbed.campaign.summary import tally as tally_module
from testbed.campaign.summary.rates import RATE_DIMENSIONS, ModelRates, fault_models
from testbed.campaign.summary.tally import KeyCounts, Tally, populations
from testbed.core.fault import FaultModel
from testbed.core.outcome import DUES, HOWS, OUTCOMES
from testbed.core.schema import PLAN_COLUMNS, arrow_schema

MODEL = ["target", "where", "op", "pattern", "scope"]
FAULT = [*MODEL, "site", "kind", "block", "bit", "bit_class", "stratum"]
TIERS, STRATA = 3, 20


def some_rows(seed: int, most: int = 6) -> pd.DataFrame:
    """Strata of activations (one row per fault) and of weights and persistent activations (a row per image, tiers in any
    order); whole-word faults without a bit, sites without a block, faults at several sites whose first one varies."""
    rng = np.random.default_rng(seed)
    found, number = [], 0
    for stratum in rng.permutation(STRATA).tolist():
        where = rng.choice(["activation", "weight"])
        scope = "persistent" if where == "weight" or rng.random() < 0.3 else "inference"
        op = rng.choice(["flip", "flip", "random"])
        pattern = rng.choice(["single", "single", "single", "single", "burst-4", "sites-2"])
        bit = None if op == "random" or pattern == "sites-2" else int(rng.integers(0, 32))
        tier = int(rng.integers(0, TIERS))
        site = int(rng.integers(0, 4))
        for _ in range(int(rng.choice([1, 1, 2, most]))):
            images = rng.permutation(np.repeat(np.arange(TIERS), 2)) if scope == "persistent" else [tier]
            faulty = int(rng.integers(0, 4)) if pattern == "sites-2" else site
            bit_class = "word" if bit is None else ["mantissa", "exponent", "sign"][bit // 12]
            fault = {
                "fault_id": number, "target": "model", "where": where, "op": op, "pattern": pattern, "scope": scope,
                "site": f"s{faulty}", "kind": f"k{faulty % 2}", "block": None if faulty == 3 else faulty, "bit": bit,
                "bit_class": bit_class, "stratum": stratum, "population": int(1000 + 17 * stratum),
            }  # fmt: skip
            number += 1
            for image_tier in images:
                outcome = rng.choice(
                    ["identical", "masked", "sdc_tolerable", "sdc1", "due"], p=[0.3, 0.2, 0.2, 0.2, 0.1]
                )
                due = rng.choice(DUES) if outcome == "due" else None
                nonfinite = None if due in ("crash", "hang") else bool(rng.random() < 0.1)
                how = rng.choice(["whole", "suffix", "dead"])
                row = {
                    "tier": int(image_tier),
                    "outcome": outcome,
                    "nonfinite": nonfinite,
                    "due": due,
                    "evaluation": how,
                }
                found.append(fault | row)
    return pd.DataFrame(found).astype({"nonfinite": object, "bit": "Int16", "block": "Int16"})


def rows_of_seeds(seeds: int) -> pd.DataFrame:
    """Rows of several seeds, each in strata of its own."""
    parts = [some_rows(seed) for seed in range(seeds)]
    return pd.concat([part.assign(stratum=part["stratum"] + STRATA * seed) for seed, part in enumerate(parts)])


def written(rows: pd.DataFrame, path: Path, group_rows: int) -> Path:
    """As the store compacts them: dictionaries of their own in every row group."""
    schema = pa.schema([field for field in ROW_SCHEMA if field.name in rows.columns])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(rows), group_rows):
            part = rows.iloc[start : start + group_rows][schema.names]
            plain = pa.Table.from_pandas(part, preserve_index=False)
            writer.write_table(plain.cast(schema))
    return path


def with_several(rows: pd.DataFrame) -> pd.DataFrame:
    """Faults at several sites are of no site, kind or block."""
    several = rows["pattern"] == "sites-2"
    blank = rows.copy()
    blank.loc[several, ["site", "kind"]] = "several"
    blank.loc[several, "block"] = None
    return blank


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tally")


@settings(max_examples=8, deadline=None, phases=[Phase.reuse, Phase.generate])  # shrinking would take minutes
@given(st.integers(0, 2**32 - 1), st.sampled_from([5, 40, 1000]), st.sampled_from([3, 17, 10_000]))
def test_rows_read_in_any_parts_give_the_rates_of_all_rows_together(
    folder: Path, seed: int, group_rows: int, chunk_rows: int
) -> None:
    rows = some_rows(seed)
    path = written(rows, folder / "results.parquet", group_rows)
    population = rows.groupby("stratum")["population"].first().reindex(range(STRATA), fill_value=0).to_numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_module, "ROWS_AT_ONCE", chunk_rows)
        tally = Tally.of(path)
    assert tally.rows == len(rows)
    rows = with_several(rows)
    models: dict[Hashable, ModelRates] = {tuple(rates.model): rates for rates in fault_models(tally, population, 0.95)}
    assert list(models) == list(rows.sort_values("stratum", kind="stable").groupby(MODEL, sort=False).groups)
    for key, part in rows.groupby(MODEL):
        assert_same_rates(models[key], part.reset_index(drop=True))
        assert_same_counts(models[key], part)


def assert_same_rates(rates: ModelRates, rows: pd.DataFrame) -> None:
    alike = rows.groupby(["site", "bit_class"]).ngroup().to_numpy()
    design = SurveyDesign(rows["stratum"], rows["population"], rows["fault_id"], alike)
    measures = {
        "sdc1": rows["outcome"] == "sdc1",
        "outside": ~rows["outcome"].isin(["identical", "masked"]),
        "nonfinite": rows["nonfinite"].eq(True),
    }
    everything = np.zeros(len(rows), int)
    groupings: list[tuple[list[Any], Any, np.ndarray]] = [([None], [rates.over_all()], everything)]
    for by in RATE_DIMENSIONS:
        codes, values = pd.factorize(rows[by])
        found = rates.by(by)
        assert sorted(value for value, _ in found) == sorted(values)
        order = dict(found)
        first = [rows["stratum"][rows[by] == value].min() for value, _ in found]
        assert first == sorted(first)
        groupings.append((list(values), [order[value] for value in values], codes))
    keys = ["tier", "site", "kind", "bit_class"]
    cells: dict[Any, Any] = dict(rates.cells())
    named = list(rows.groupby(keys).groups)
    assert {tuple(cell) for cell in cells} == set(named)
    groupings.append((named, [cells[name] for name in named], rows.groupby(keys).ngroup().to_numpy()))
    for _, groups, codes in groupings:
        for measure, y in measures.items():
            wanted = design.by_group(y, codes)
            for code, group in enumerate(groups):
                assert vars(group.rates[measure]) == pytest.approx(vars(wanted[code]), rel=1e-9, abs=1e-9)


def assert_same_counts(rates: ModelRates, rows: pd.DataFrame) -> None:
    assert rates.evaluations() == {how: n for how in HOWS if (n := int((rows["evaluation"] == how).sum()))}
    assert rates.dues() == {due: n for due in DUES if (n := int((rows["due"] == due).sum()))}
    for cell, counts in rates.outcomes_by_cell().items():
        own = rows[(rows[["tier", "site", "kind", "bit_class"]] == list(cell)).all(axis=1)]
        assert {name: counts[name] for name in OUTCOMES} == {name: (own["outcome"] == name).sum() for name in OUTCOMES}
        assert counts["nonfinite"] == own["nonfinite"].eq(True).sum()


def test_bits_of_different_number_formats_are_told_apart(folder: Path) -> None:
    """Bit 7 of an integer is its sign, of a float one of the mantissa: their rates have nothing to do with one another."""
    rows = rows_of_seeds(6)
    rows["fault_id"] = rows.groupby(["stratum", "fault_id"], sort=False).ngroup()
    rows["bit"] = rows["bit"] % 3
    rows = with_several(rows.reset_index(drop=True))
    formats = {"s0": "int8", "s1": "fp32", "s2": "int8", "s3": "fp32", "several": "fp32"}
    population = rows.groupby("stratum")["population"].first().reindex(range(STRATA * 6), fill_value=0).to_numpy()
    told = 0
    for rates in fault_models(Tally.of(written(rows, folder / "results.parquet", 50)), population, 0.95):
        mine = rows[(rows[MODEL] == list(rates.model)).all(axis=1) & rows["bit"].notna()]
        found = rates.by_bit(formats)
        assert {value for value, _ in found} == set(zip(mine["site"].map(formats), mine["bit"], strict=True))
        for (name, bit), group in found:
            part = mine[(mine["site"].map(formats) == name) & (mine["bit"] == bit)]
            of_stratum = (
                part.assign(hit=part["outcome"] == "sdc1")
                .groupby("stratum")
                .agg({"hit": "mean", "population": "first"})
            )
            assert group.rates["sdc1"].n_rows == len(part)
            assert group.rates["sdc1"].rate == pytest.approx(
                np.average(of_stratum["hit"], weights=of_stratum["population"])
            )
            told += 1
    assert told > 20


def test_memory_is_of_strata_not_of_rows(folder: Path) -> None:
    """Ten times the rows of the same strata: as many counters."""
    sizes = []
    for copies in (1, 10):
        rows = some_rows(3)
        more = [rows.assign(fault_id=rows["fault_id"] + 1000 * copy) for copy in range(copies)]
        tally = Tally.of(written(pd.concat(more), folder / "results.parquet", 50))
        counts = [tally.outcomes, *tally.faults.values(), *tally.tiers.values()]
        sizes.append([len(count.table()["count"]) for count in counts] + [len(tally.profiles)])
        assert tally.rows == copies * len(rows)
    assert sizes[0] == sizes[1]


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**40)), max_size=6), max_size=5))
def test_counts_add_up_however_they_come(parts: list[list[tuple[int, int]]]) -> None:
    counts = KeyCounts("a", "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_module, "ROWS_AT_ONCE", 2)
        for part in parts:
            counts.add(*np.array(part, np.int64).reshape(-1, 2).T)
    table = counts.table()
    found = dict(zip(zip(table["a"].tolist(), table["b"].tolist(), strict=True), table["count"].tolist(), strict=True))
    every = [key for part in parts for key in part]
    assert found == {key: every.count(key) for key in every}
    assert len(found) == len(table["count"])


def test_keys_of_any_size_are_told_apart() -> None:
    """As digits of one number, with these ranges, two of them would be 2**64 apart."""
    first, second = np.array([0, 2**31, 0], np.int64), np.array([0, 0, 2**33 - 1], np.int64)
    counts = KeyCounts("a", "b")
    counts.add(first, second)
    counts.add(first, second)
    table = counts.table()
    found = set(zip(table["a"].tolist(), table["b"].tolist(), table["count"].tolist(), strict=True))
    assert found == {(0, 0, 2), (2**31, 0, 2), (0, 2**33 - 1, 2)}


def test_fault_models_are_told_apart_by_their_names(folder: Path) -> None:
    rows = rows_of_seeds(8)
    rows = rows.drop_duplicates("stratum").assign(fault_id=range(8 * STRATA))
    models = list(fault_models(Tally.of(written(rows, folder / "results.parquet", 9)), np.ones(8 * STRATA, int), 0.95))
    told = [(m.model.to_json()["target"], m.model.to_json()["where"], m.model.to_json()["op"]) for m in models]
    assert len(set(told)) == len(told) == rows.groupby(MODEL).ngroups


@pytest.mark.parametrize(
    ("model", "label"),
    [
        (FaultModel("model", "activation", "flip", "single", "inference"), "flip"),
        (FaultModel("model", "weight", "stuck0", "single", "persistent"), "stuck0"),
        (FaultModel("model", "activation", "flip", "single", "persistent"), "flip, persistent"),
        (FaultModel("model", "weight", "flip", "burst-4", "persistent"), "flip x burst-4"),
        (FaultModel("model", "activation", "random", "tile-4x16", "persistent"), "random x tile-4x16, persistent"),
    ],
)
def test_what_is_usual_is_not_named(model: FaultModel, label: str) -> None:
    assert model.label == label


def test_populations_come_from_every_plan_of_the_campaign(folder: Path) -> None:
    """Rounds draw from the same strata again, and from others."""
    for number, strata in enumerate([[0, 0, 2], [2, 5]]):
        columns = {"stratum": pa.array(strata, pa.int32()), "population": pa.array([100 * s + 7 for s in strata])}
        table = pa.table(
            {f.name: columns.get(f.name, pa.nulls(len(strata), f.type)) for f in arrow_schema(PLAN_COLUMNS)}
        )
        pq.write_table(table.cast(arrow_schema(PLAN_COLUMNS)), folder / f"{number}.parquet", row_group_size=2)
    faults, population = populations([folder / "0.parquet", folder / "1.parquet"])
    assert faults == 5
    assert population.tolist() == [7, 0, 207, 0, 0, 507]
