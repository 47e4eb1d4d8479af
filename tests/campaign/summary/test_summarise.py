"""summary.json against the rows and the plan, recomputed with pandas alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from testbed.campaign.summary.rates import RATE_DIMENSIONS
from testbed.core.outcome import HOWS

OUTCOMES = ["identical", "masked", "sdc_tolerable", "sdc1", "sdc", "due"]
LEG = ["target", "where", "op"]


class Finished:
    """``rows``: each with ``weight``, the number of faults x images of the population that it stands for."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
        columns = [
            "fault_id",
            "stratum",
            *LEG,
            "site",
            "kind",
            "block",
            "bit",
            "bit_class",
            "tier",
            "outcome",
            "nonfinite",
            "evaluation",
            "due",
        ]
        rows = pq.read_table(run / "results.parquet", columns=columns).to_pandas()
        plan = pq.read_table(run / "faults.parquet", columns=["fault_id", "population"]).to_pandas()
        rows = rows.merge(plan, on="fault_id")
        rows["weight"] = rows.population / rows.groupby("stratum").stratum.transform("size")
        rows["sdc1"] = rows.outcome == "sdc1"
        rows["outside"] = ~rows.outcome.isin(["identical", "masked"])
        rows["nonfinite"] = rows.nonfinite.eq(True)
        self.rows = rows

    def cells(self, keys: list[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
        """n, faults and population-weighted rates per combination of ``keys``."""
        measures = ["sdc1", "outside", "nonfinite"]
        frame = self.rows.assign(**{measure: self.rows[measure] * self.rows.weight for measure in measures})
        groups = frame.groupby(keys, observed=True)
        found = groups[["weight", *measures]].sum()
        found[measures] = found[measures].div(found.weight, axis=0)
        found["n"], found["faults"] = groups.size(), groups.fault_id.nunique()
        return {key if isinstance(key, tuple) else (key,): row for key, row in found.to_dict("index").items()}


@pytest.fixture(scope="module", params=["tiny_run", "digits_run"])
def finished(request: pytest.FixtureRequest) -> Finished:
    return Finished(request.getfixturevalue(request.param))


def test_totals_are_those_of_the_files(finished: Finished) -> None:
    assert finished.summary["rows"] == len(finished.rows)
    assert finished.summary["faults"] == pq.read_metadata(finished.run / "faults.parquet").num_rows
    assert finished.summary["faults"] == finished.rows.fault_id.nunique()


def test_the_outcomes_of_every_cell_are_those_of_its_rows(finished: Finished) -> None:
    keys = [*LEG, "tier", "site", "bit_class"]
    groups = finished.rows.groupby(keys, observed=True)
    counted = groups.outcome.value_counts().unstack(fill_value=0).to_dict("index")
    nonfinite = groups.nonfinite.sum().to_dict()
    assert len(finished.summary["strata"]) == len(nonfinite)
    for cell in finished.summary["strata"]:
        key = tuple(cell[name] for name in keys)
        assert {name: cell[name] for name in OUTCOMES} == {name: counted[key].get(name, 0) for name in OUTCOMES}
        assert sum(cell[name] for name in OUTCOMES) == cell["n"]
        assert cell["nonfinite"] == nonfinite[key]


def test_the_cells_add_up_to_all_rows(finished: Finished) -> None:
    assert sum(cell["n"] for cell in finished.summary["strata"]) == len(finished.rows)


def test_the_rate_of_every_cell_is_weighted_by_population(finished: Finished) -> None:
    keys = [*LEG, "tier", "site", "bit_class"]
    wanted = finished.cells(keys)
    for cell in finished.summary["strata"]:
        mine = wanted[tuple(cell[name] for name in keys)]
        assert (cell["n"], cell["faults"]) == (mine["n"], mine["faults"])
        for measure in ("sdc1", "outside"):
            rate, low, high = (cell[f"{measure}_{name}"] for name in ("rate", "low", "high"))
            if measure == "sdc1" and cell["target"] == "attention":
                assert rate is low is high is None
            else:
                assert rate == pytest.approx(mine[measure], abs=2e-9)
                assert 0 <= low <= rate <= high <= 1


def test_marginals_are_weighted_by_population_too(finished: Finished) -> None:
    wanted = {by: finished.cells([*LEG, by]) for by in RATE_DIMENSIONS} | {"all": finished.cells(LEG)}
    for marginal in finished.summary["marginals"]:
        by = marginal["by"]
        mine = wanted[by][(*(marginal[key] for key in LEG), *([] if by == "all" else [marginal["value"]]))]
        assert (marginal["n"], marginal["faults"]) == (mine["n"], mine["faults"])
        for measure, told in marginal["rates"].items():
            if measure == "sdc1" and marginal["target"] == "attention":
                assert told is None
            else:
                assert told["rate"] == pytest.approx(mine[measure], abs=2e-9)
                assert 0 <= told["low"] <= told["rate"] <= told["high"] <= 1


def test_every_fault_model_has_its_marginals_and_no_rate_mixes_two(finished: Finished) -> None:
    for by in ("all", *RATE_DIMENSIONS):
        told = [(tuple(m[key] for key in LEG), m["n"]) for m in finished.summary["marginals"] if m["by"] == by]
        found = finished.rows.groupby(LEG, observed=True)["fault_id" if by == "all" else by].count()
        assert {target_place for target_place, _ in told} == {target_place for target_place, n in found.items() if n}
        assert all(
            sum(n for other, n in told if other == target_place) == found[target_place] for target_place, _ in told
        )
        assert by != "all" or len(told) == len(found)


def test_it_is_told_how_the_outputs_of_each_fault_model_were_found(finished: Finished) -> None:
    told = {tuple(one[key] for key in LEG): one for one in finished.summary["evaluation"]}
    groups = finished.rows.groupby(LEG, observed=True)
    assert {target_place: one["rows"] for target_place, one in told.items()} == groups.size().to_dict()
    assert sum(one["rows"] for one in told.values()) == len(finished.rows)
    for target_place, rows in groups:
        for kind, column in (("how", "evaluation"), ("due", "due")):
            counted = rows[column].value_counts()
            wanted = {name: {"rows": n, "share": round(n / len(rows), 9)} for name, n in counted.items() if n}
            assert told[target_place][kind] == wanted
        assert list(told[target_place]["how"]) == [how for how in HOWS if how in told[target_place]["how"]]


def test_populations_are_what_the_site_tables_say(tiny_run: Path) -> None:
    """The weights themselves: elements times images of the tier, or elements where every image is run."""
    plan = pq.read_table(tiny_run / "faults.parquet").to_pandas()
    elements = {
        (target, site["name"]): int(np.prod(site["shape"]))
        for target in ("model", "attention")
        for site in json.loads((tiny_run / f"{target}.sites.json").read_text())["sites"]
    }
    images = np.where(plan["where"] == "activation", 3, 1)
    wanted = np.array([elements[key] for key in zip(plan.target, plan.site, strict=True)]) * images
    assert plan.population.tolist() == wanted.tolist()


def test_the_summary_holds_what_people_ask_of_it(finished: Finished) -> None:
    summary = finished.summary
    assert summary["zero_fault"]["mismatches"] == 0
    assert summary["zero_fault"]["rows"] > 0
    assert 0 <= summary["drift"]["max_abs_diff"] <= summary["drift"]["bound"]
    assert 0.5 < summary["model"]["test_accuracy"] <= 1
    assert set(summary["engine"]) >= {"backend", "hash", "deployment_id", "precision", "batch", "threads"}
    assert {cell["target"] for cell in summary["strata"]} == {"model", "attention"}
    named = json.loads((finished.run / "tiers.json").read_text())
    for tier, told in zip(summary["tiers"], named["tiers"], strict=True):
        assert (tier["low"], tier["high"], tier["available"]) == (told["low"], told["high"], len(told["images"]))
        assert tier["thin"] == (tier["images"] < 16)
        assert sum(tier["classes"].values()) == tier["images"]
    classes = summary["data"]["classes"]
    counted = Counter(classes[image["label"]] for image in named["named"])
    assert summary["images"] == {"named": len(named["named"]), "classes": counted}
    assert list(summary["images"]["classes"]) == [name for name in classes if name in counted]
    assert summary["model"]["no_better_than_guessing"] is False


def test_thin_strata_have_wide_intervals(finished: Finished) -> None:
    """Zero of n events is no proof: the upper limit is at least Clopper-Pearson's of that many independent faults."""
    for cell in finished.summary["strata"][::11]:
        if cell["target"] == "model" and cell["sdc1"] == 0:
            assert cell["sdc1_high"] >= 0.9 * (1 - 0.025 ** (1 / cell["faults"]))
            assert cell["sdc1_low"] == 0
