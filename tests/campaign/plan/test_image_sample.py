"""Persistent faults that are run on some of the images: which, how many rows that makes, and what it does to rates."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom

from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.plan.table import read_plan
from testbed.campaign.plan.units import slice_of, units_of, word_counts
from testbed.campaign.results.fault_images import rows_each
from testbed.campaign.results.row_weights import RowWeights
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.site import Site, SiteTable
from tests.support.adaptive_plans import IMAGES, SPEC, TABLES, TIERS, campaign, fails, planner, ran
from tests.support.plans import plan_table


def spec_of(images: int | str | None, **changes: Any) -> CampaignSpec:
    values: dict[str, Any] = copy.deepcopy(SPEC) | changes
    if "stop" not in changes:
        del values["stop"]
        values["faults"] = [section | {"per_stratum": 5} for section in values["faults"]]
    if images is not None:
        values["faults"][1]["images"] = images
    return parse_spec(values)


def weights_of(plan: pa.Table) -> pa.Table:
    return plan.filter(pc.equal(plan.column("where").cast(pa.string()), "weight"))


@pytest.mark.parametrize("images", ["all", 10, 64])
def test_as_many_images_as_there_are_change_nothing(images: int | str) -> None:
    plain, asked = (plan_table(spec_of(n), TABLES, TIERS) for n in (None, images))
    assert asked.equals(plain)
    assert asked.column("image_ids").null_count == len(asked)
    assert spec_of("all").identity() == spec_of(None).identity()


def test_each_fault_has_its_own_images_some_of_every_tier() -> None:
    plan = plan_table(spec_of(4), TABLES, TIERS)
    plain = plan_table(spec_of(None), TABLES, TIERS)
    assert plan.drop_columns(["image_ids"]).equals(
        plain.drop_columns(["image_ids"])
    )  # the same faults, in the same order
    drawn = weights_of(plan).column("image_ids").to_pylist()
    assert all(len(set(ids)) == 4 and set(ids) <= {*IMAGES} for ids in drawn)
    assert len({tuple(ids) for ids in drawn}) > 0.5 * len(drawn)
    of_low = np.array([sum(image in TIERS[0] for image in ids) for ids in drawn])
    assert set(of_low.tolist()) == {2, 3}  # 6 of 10 images, times 4
    times = np.array([sum(image in ids for ids in drawn) for image in IMAGES])
    assert times.sum() == 4 * len(drawn)
    assert (binom.cdf(times, len(drawn), 0.4) > 1e-4).all()
    assert (binom.sf(times - 1, len(drawn), 0.4) > 1e-4).all()
    activations = plan.filter(pc.equal(plan.column("where").cast(pa.string()), "activation"))
    assert activations.column("image_ids").null_count == len(activations)


def test_images_depend_on_the_seed_the_stratum_and_the_draw_alone() -> None:
    plan = weights_of(plan_table(spec_of(3), TABLES, TIERS))
    values = copy.deepcopy(SPEC) | {"faults": [SPEC["faults"][1] | {"images": 3, "per_stratum": 2, "bits": [31]}]}
    del values["stop"]
    few = plan_table(parse_spec(values), TABLES, TIERS)
    images = {
        (row["site"], row["bit"], row["draw"]): row["image_ids"]
        for row in plan.select(["site", "bit", "draw", "image_ids"]).to_pylist()
    }
    for row in few.select(["site", "bit", "draw", "image_ids"]).to_pylist():
        assert images[row["site"], row["bit"], row["draw"]] == row["image_ids"]
    other = weights_of(plan_table(spec_of(3, seed=6), TABLES, TIERS))
    assert other.column("image_ids") != plan.column("image_ids")


def test_persistent_activations_are_run_on_some_images_too() -> None:
    values = copy.deepcopy(SPEC)
    del values["stop"]
    values["faults"] = [values["faults"][0] | {"scope": "persistent", "images": 2, "bits": [30]}]
    plan = plan_table(parse_spec(values), TABLES, TIERS)
    assert {len(ids) for ids in plan.column("image_ids").to_pylist()} == {2}
    assert word_counts(plan, len(IMAGES)).tolist() == [2] * len(plan)


def test_rows_units_and_weights_count_the_images_that_are_run(tmp_path: Path) -> None:
    plan = plan_table(spec_of(3), TABLES, TIERS)
    pq.write_table(plan, tmp_path / "faults.parquet")
    each = rows_each(plan, len(IMAGES))
    weights = np.array(plan.column("where").cast(pa.string()).to_pylist()) == "weight"
    assert set(each[weights].tolist()) == {3}
    assert set(each[~weights].tolist()) == {1}
    units = list(units_of(tmp_path / "faults.parquet", "faults.parquet", len(IMAGES), 12, 0))
    assert sum(unit.rows for unit in units) == each.sum()
    assert all(unit.rows == each[unit.start : unit.stop].sum() for unit in units)
    assert max(len(unit) for unit in units if weights[unit.start]) == 4
    found = RowWeights.of(tmp_path / "faults.parquet", len(IMAGES))
    table = plan.to_pandas()
    per_row = table["population"] / (table.groupby("stratum")["fault_id"].transform("size") * each)
    stratum = pa.table({"stratum": pa.array(np.repeat(table["stratum"], each), pa.int32())})
    np.testing.assert_allclose(found.added(stratum).column("weight").to_numpy(), np.repeat(per_row, each))


def test_a_plan_of_before_is_of_all_images(tmp_path: Path) -> None:
    plan = plan_table(spec_of(None), TABLES, TIERS)
    pq.write_table(plan.drop_columns(["image_ids"]), tmp_path / "faults.parquet")
    assert read_plan(tmp_path / "faults.parquet").equals(plan)
    assert slice_of(tmp_path / "faults.parquet", 3, 9).equals(plan.slice(3, 6).combine_chunks())
    units = list(units_of(tmp_path / "faults.parquet", "faults.parquet", len(IMAGES), 12, 0))
    assert sum(unit.rows for unit in units) == rows_each(plan, len(IMAGES)).sum()


# ---- rates


def small_stratum(images: int | None, **stop: Any) -> AdaptivePlanner:
    """Forty weights, of one bit."""
    table = SiteTable("model", "id", "gated_replace", (Site("embed.bias", "weight", (40,)),))
    section = {"target": "model", "where": "weight", "ops": ["flip"], "bits": [30]}
    values = copy.deepcopy(SPEC) | {"faults": [section | ({} if images is None else {"images": images})]}
    values["stop"] = {"margin": 0.01, "per": "all", "strata": "all", "steer": "all"} | stop
    return AdaptivePlanner(parse_spec(values), {"model": table}, TIERS)


def test_all_faults_on_some_images_are_not_known_for_certain_and_are_drawn_again() -> None:
    """With all images, the rate is exact once all forty have been drawn. On two each it is an estimate, and stays one."""
    exact, estimated = small_stratum(None), small_stratum(2, margin=0.03)
    (counts, plans), (two_counts, two_plans) = campaign(exact), campaign(estimated)
    assert sum(map(len, plans)) == 40
    assert exact.verdict(counts).widest == pytest.approx(0, abs=1e-9)
    assert sum(map(len, two_plans)) > 80
    (domain,) = estimated.verdict(two_counts).domains
    assert 0.02 < domain.half_width <= 0.03
    assert estimated.verdict(two_counts).met
    drawn = pa.concat_tables(two_plans)
    assert drawn.column("inclusion").null_count == len(drawn)
    places = drawn.column("index").to_numpy()
    assert sorted(places[:40]) == list(range(40))  # each once before any a second time
    pairs = zip(places.tolist(), map(tuple, drawn.column("image_ids").to_pylist()), strict=True)
    assert len(set(pairs)) > 0.7 * len(places)  # a place that is drawn again meets other images


def known(site: str, bits: range | tuple[int, ...], elements: int) -> float:
    return float(np.mean([fails(site, bit, i, image) for bit in bits for i in range(elements) for image in IMAGES]))


def test_campaigns_of_many_seeds_cover_the_known_rates() -> None:
    """Where some images fail far more often than others, and where every fault of the stratum is drawn."""
    campaigns, wanted, rates, held = 40, known("embed.bias", (30,), 40), [], 0
    for seed in range(campaigns):
        adaptive = small_stratum(2, margin=0.12)
        adaptive = AdaptivePlanner(adaptive.spec.model_copy(update={"seed": seed}), adaptive.tables, TIERS)
        counts, _ = campaign(adaptive)
        (domain,) = adaptive.verdict(counts).domains
        held += domain.low <= wanted <= domain.high
        rates.append(domain.rate)
    assert held >= binom.ppf(1e-4, campaigns, 0.95)
    assert abs(np.mean(rates) - wanted) < 3.5 * np.std(rates, ddof=1) / np.sqrt(campaigns)


def test_a_margin_costs_fewer_rows_on_some_images() -> None:
    """Faults whose images hardly fail together are seen best on one image each."""
    rows = []
    for images in (1, None):
        values = copy.deepcopy(SPEC)
        values["faults"] = [values["faults"][1] | ({} if images is None else {"images": images})]
        adaptive = planner(parse_spec(values))
        counts, plans = campaign(adaptive)
        assert adaptive.verdict(counts).met
        rows.append(sum(ran(plan).num_rows for plan in plans))
    assert rows[0] < 0.5 * rows[1]
