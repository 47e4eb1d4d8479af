"""Adaptive plans: rounds that follow from the rows before them, uniform draws that never repeat, intervals that hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from testbed.analysis.stratified import StratumTally
from testbed.analysis.survey import SurveyDesign
from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.plan.table import plan_slices
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.schema import PLAN_COLUMNS, arrow_schema
from testbed.core.site import Site, SiteTable

TABLE = SiteTable(
    "model",
    "id",
    "gated_replace",
    (
        Site("embed", "activation", (40,)),
        *(Site(f"block.{b}.mlp.{name}", "activation", (5, 16)) for b in (0, 1) for name in ("fc1", "fc2")),
        *(Site(f"block.{b}.mlp.fc1.weight", "weight", (16, 16)) for b in (0, 1)),
    ),
)
TABLES = {"model": TABLE}
TIERS = [[f"low {n}" for n in range(6)], [f"high {n}" for n in range(4)]]
IMAGES = [image for tier in TIERS for image in tier]
SPEC: dict[str, Any] = {
    "name": "adaptive",
    "seed": 5,
    "model": {"preset": "digits", "recipe": "digits"},
    "data": {"name": "digits"},
    "tiers": {"edges": [0.5, 1.0], "images": [6, 4]},
    "stop": {"margin": 0.05, "per": "block"},
    "faults": [
        {"target": "model", "where": "activation", "sites": ["block.*"], "ops": ["flip"]},
        {"target": "model", "where": "weight", "ops": ["flip"], "bits": [0, 30, 31]},
    ],
}


def spec_with(**stop: Any) -> CampaignSpec:
    values = copy.deepcopy(SPEC)
    values["stop"] |= stop
    return parse_spec(values)


def planner(spec: CampaignSpec | None = None) -> AdaptivePlanner:
    return AdaptivePlanner(spec or parse_spec(SPEC), TABLES, TIERS)


def fails(site: str, bit: int, index: int, image: str) -> bool:
    """A population that is known exhaustively: upper bits fail often in block 0, sometimes in block 1."""
    chance = {31: 0.2, 30: 0.8}.get(bit, 0.02 if bit > 23 else 0.0) * (0.3 if site.startswith("block.1") else 1)
    place = index * 7919 + IMAGES.index(image) * 104729 + bit * 1299709 + len(site) * 15485863
    return place * 2654435761 % 2**32 / 2**32 < chance


def ran(plan: pa.Table) -> pa.Table:
    """Rows of a plan: persistent faults strike all images."""
    rows = []
    for fault in plan.select(["fault_id", "site", "bit", "index", "image_id"]).to_pylist():
        for image in [fault["image_id"]] if fault["image_id"] else IMAGES:
            failed = fails(fault["site"], fault["bit"], fault["index"], image)
            rows.append((fault["fault_id"], "sdc1" if failed else "masked"))
    ids, outcomes = zip(*rows, strict=True)
    return pa.table({"fault_id": ids, "outcome": pa.array(outcomes).dictionary_encode()})


def table_of(parts: Any) -> pa.Table:
    return pa.concat_tables([part.faults for part in parts]).unify_dictionaries().combine_chunks()


def campaign(
    adaptive: AdaptivePlanner, look: Callable[[pa.Table], None] = lambda plan: None
) -> tuple[list[StratumTally], list[pa.Table]]:
    """Counts and plans of all rounds of a campaign, run to its end."""
    counts: list[StratumTally] = []
    plans: list[pa.Table] = []
    while (parts := adaptive.round(len(counts), counts)) is not None:
        plans.append(table_of(parts))
        look(plans[-1])
        counts.append(adaptive.counts_of(plans[-1], [ran(plans[-1])]))
    return counts, plans


@pytest.fixture(scope="module")
def finished() -> tuple[AdaptivePlanner, list[StratumTally], list[pa.Table]]:
    adaptive = planner()
    return adaptive, *campaign(adaptive)


def test_plans_have_the_plans_columns_and_go_on_where_the_last_one_ended(finished: Any) -> None:
    _, _, plans = finished
    assert len(plans) > 2
    whole = pa.concat_tables(plans)
    assert whole.schema.equals(arrow_schema(PLAN_COLUMNS))
    assert whole.column("fault_id").to_pylist() == list(range(whole.num_rows))
    for number, plan in enumerate(plans):
        assert set(plan.column("round").to_pylist()) == {number}
        assert [(plan_slice.target, plan_slice.where) for plan_slice in plan_slices(plan)] == [
            (target, where)
            for target, where in (("model", "activation"), ("model", "weight"))
            if where in plan.column("where").to_pylist()
        ]


def test_no_fault_is_drawn_twice_in_any_round(finished: Any) -> None:
    _, _, plans = finished
    rows = pa.concat_tables(plans).to_pandas()
    assert not rows.duplicated(["site", "index", "bit", "image_id"]).any()
    assert not rows.duplicated(["stratum", "draw"]).any()


def test_draws_and_inclusion_count_on_through_the_rounds(finished: Any) -> None:
    adaptive, _, plans = finished
    drawn = np.zeros(len(adaptive.groups), int)
    for plan in plans:
        rows = plan.to_pandas()
        for stratum, part in rows.groupby("stratum"):
            n = drawn[stratum] + len(part)
            assert sorted(part["draw"]) == list(range(drawn[stratum], n))
            drawn[stratum] = n
            population = adaptive.groups[stratum].population
            assert set(part["population"]) == {population}
            np.testing.assert_allclose(part["inclusion"], n / population)


def test_every_fault_is_of_the_stratum_that_it_is_counted_in(finished: Any) -> None:
    adaptive, _, plans = finished
    for row in pa.concat_tables(plans).to_pylist():
        group = adaptive.groups[row["stratum"]]
        assert (row["site"], row["block"], row["bit_class"]) == group.values
        assert (row["where"], row["op"]) == (group.model.where, group.model.op)
        if row["where"] == "activation":
            assert row["image_id"] in TIERS[row["tier"]]
        else:
            assert row["image_id"] is row["tier"] is None


def test_the_same_rounds_follow_from_the_same_rows(finished: Any) -> None:
    """By another planner, asked for one round alone: a campaign that goes on after a kill."""
    _, counts, plans = finished
    for number in range(len(plans)):
        parts = planner().round(number, counts[:number])
        assert parts is not None
        assert table_of(parts).equals(plans[number])
    assert planner().round(len(plans), counts) is None


def test_other_rows_lead_to_another_round() -> None:
    adaptive = planner()
    plan = table_of(adaptive.round(0, []) or [])
    rows = ran(plan)
    never = rows.set_column(1, "outcome", pa.array(["masked"] * rows.num_rows).dictionary_encode())
    rounds = [table_of(adaptive.round(1, [adaptive.counts_of(plan, [part])]) or []) for part in (rows, never)]
    assert rounds[0].num_rows > rounds[1].num_rows


def test_counts_are_those_of_the_rows_in_whatever_pieces(finished: Any) -> None:
    adaptive, counts, plans = finished
    rows = pa.concat_tables([ran(plan) for plan in plans])  # of all rounds, as they may lie in one file
    for plan, tally in zip(plans, counts, strict=True):
        for chunks in ([rows], rows.to_batches(max_chunksize=7)):
            again = adaptive.counts_of(plan, chunks)
            for name in ("n", "total", "squares"):
                np.testing.assert_array_equal(getattr(again, name), getattr(tally, name))
    assert sum(tally.n.sum() for tally in counts) == sum(plan.num_rows for plan in plans)


def test_a_fault_without_a_row_is_told(finished: Any) -> None:
    adaptive, _, plans = finished
    rows = ran(plans[1])
    missing = rows.filter(pa.compute.not_equal(rows.column("fault_id"), plans[1].column("fault_id")[3]))
    with pytest.raises(StaleArtefact, match=rf"fault {plans[1].column('fault_id')[3]} of round 1 has no row"):
        adaptive.counts_of(plans[1], [missing])


def test_the_verdict_is_the_survey_estimate_of_the_rows(finished: Any) -> None:
    adaptive, counts, plans = finished
    verdict = adaptive.verdict(counts)
    plan, rows = pa.concat_tables(plans).to_pandas(), pa.concat_tables([ran(plan) for plan in plans]).to_pandas()
    rows = rows.merge(plan[["fault_id", "stratum", "population", "block", "where"]], on="fault_id")
    assert verdict.done
    assert verdict.met
    assert verdict.rounds == len(plans)
    assert verdict.faults == len(plan)
    assert [(d.model.where, d.values) for d in verdict.domains] == [
        (where, (block,)) for where in ("activation", "weight") for block in (0, 1)
    ]
    for domain in verdict.domains:
        mine = rows[(rows["where"] == domain.model.where) & (rows["block"] == domain.values[0])]
        design = SurveyDesign(mine["stratum"], mine["population"], mine["fault_id"], finite_population=True)
        wanted = design.estimate(mine["outcome"] == "sdc1", domain.confidence)
        assert domain.rate == pytest.approx(wanted.rate)
        assert domain.low <= wanted.low + 1e-9
        assert domain.high >= wanted.high - 1e-9
        assert domain.half_width <= 0.05
        assert domain.confidence >= 0.95
        assert domain.faults == mine["fault_id"].nunique()


def test_the_history_tells_every_round(finished: Any) -> None:
    adaptive, counts, plans = finished
    history = adaptive.history(counts, [2.5 * (n + 1) for n in range(len(counts))])
    assert [record["faults"] for record in history] == np.cumsum([plan.num_rows for plan in plans]).tolist()
    assert [record["round"] for record in history] == list(range(len(plans)))
    assert history[1]["seconds"] == 5.0
    assert history[0]["open"] == 4
    assert history[-1]["open"] == 0
    assert history[-1]["widest"] < history[0]["widest"]
    assert history[-1]["domains"][1]["block"] == 1
    assert history[-1]["domains"][3]["where"] == "weight"
    assert all(domain["met"] for domain in history[-1]["domains"])


def test_rounds_are_counted_from_nought() -> None:
    with pytest.raises(ValueError, match="round 2 follows from 2 rounds, not 0"):
        planner().round(2, [])


@pytest.mark.parametrize("most", [200, 777])
def test_no_more_faults_than_may_be(most: int) -> None:
    adaptive = planner(spec_with(max_faults=most, margin=0.01))
    counts, plans = campaign(adaptive)
    verdict = adaptive.verdict(counts)
    assert verdict.faults == sum(plan.num_rows for plan in plans) == most
    assert verdict.done
    assert not verdict.met


def test_a_pilot_cut_short_tells_the_rate_that_its_rows_tell() -> None:
    """Of strata of which nothing was drawn nothing is known: they are no zeros."""
    adaptive = planner(spec_with(max_faults=20, pilot=8))
    counts, plans = campaign(adaptive)
    plan = pa.concat_tables(plans).to_pandas()
    rows = ran(pa.concat_tables(plans)).to_pandas().merge(plan[["fault_id", "stratum", "population", "block", "where"]])
    checked = 0
    for domain in adaptive.verdict(counts).domains:
        mine = rows[(rows["where"] == domain.model.where) & (rows["block"] == domain.values[0])]
        strata = sum(1 for g in adaptive.groups if (g.model, g.values[1]) == (domain.model, domain.values[0]))
        if 0 < mine["stratum"].nunique() < strata:
            wanted = SurveyDesign(mine["stratum"], mine["population"], mine["fault_id"]).estimate(
                mine["outcome"] == "sdc1"
            )
            assert domain.rate == pytest.approx(wanted.rate)
            assert (domain.low, domain.high, domain.met) == (0, 1, False)
            checked += wanted.rate > 0
    assert checked


def test_strata_may_be_as_coarse_as_asked_but_stay_within_the_domains() -> None:
    coarse = planner(spec_with(strata="all", steer="all", per="block"))
    assert [(g.model.where, g.values, g.population) for g in coarse.groups] == [
        ("activation", (0,), 2 * 80 * 32 * 10),
        ("activation", (1,), 2 * 80 * 32 * 10),
        ("weight", (0,), 256 * 3),
        ("weight", (1,), 256 * 3),
    ]
    fine = planner(spec_with(strata="site x bit", steer="bit", per="kind"))
    assert len(fine.groups) == 4 * 32 + 2 * 3
    counts, _ = campaign(coarse)
    assert coarse.verdict(counts).met


def test_a_small_population_is_run_completely_and_then_known() -> None:
    values = copy.deepcopy(SPEC)
    values["faults"] = [{"target": "model", "where": "activation", "sites": ["embed"], "ops": ["flip"], "bits": [30]}]
    values["stop"]["margin"] = 0.001
    adaptive = planner(parse_spec(values))
    counts, plans = campaign(adaptive)
    (domain,) = adaptive.verdict(counts).domains
    assert domain.faults == 40 * 10
    assert domain.values == (None,)  # outside the blocks
    assert domain.half_width == pytest.approx(0, abs=1e-9)
    assert domain.rate == pytest.approx(np.mean([fails("embed", 30, i, image) for i in range(40) for image in IMAGES]))
    assert sum(plan.num_rows for plan in plans) == 400


def truths(where: str) -> list[float]:
    found = []
    for block in (0, 1):
        names = [s for s in TABLE if s.where == where and s.block == block]
        bits = range(32) if where == "activation" else (0, 30, 31)
        found.append(
            float(
                np.mean(
                    [fails(s.name, b, i, m) for s in names for b in bits for i in range(s.elements) for m in IMAGES]
                )
            )
        )
    return found


def test_campaigns_of_many_seeds_cover_the_known_rates() -> None:
    campaigns, wanted = 40, [*truths("activation"), *truths("weight")]
    held = np.zeros(4)
    for seed in range(campaigns):
        adaptive = planner(parse_spec(copy.deepcopy(SPEC) | {"seed": seed}))
        counts, _ = campaign(adaptive)
        held += [d.low <= rate <= d.high for d, rate in zip(adaptive.verdict(counts).domains, wanted, strict=True)]
    assert held.min() >= binom.ppf(1e-4, campaigns, 0.95)


# --- faults whose content is drawn with their place ----------------------------------------------------------------

SMALL = {"model": SiteTable("model", "id", "gated_replace", (Site("head", "activation", (4, 2)),))}
FEW = [["a", "b"], ["c"]]
OWN_BITS = {"ops": ["flip"], "pattern": "row", "same_bit": False}
LIMITS = {"random": [2, 9, 40, 77, 5, 0, 120, 31], "flip": [1, 5, 0, 2]}  # of 256 upper bytes; of a row's 32 bits


def small_spec(seed: int, margin: float, section: dict[str, Any]) -> CampaignSpec:
    values = copy.deepcopy(SPEC) | {"seed": seed, "stop": {"margin": margin, "per": "all", "strata": "site"}}
    values["tiers"]["images"] = [2, 1]
    values["faults"] = [{"target": "model", "where": "activation", **section}]
    return parse_spec(values)


def word_fails(fault: dict[str, Any]) -> bool:
    """A random word by its upper byte, a row by which bit of its first word was struck: rates are known exactly."""
    if fault["op"] == "random":
        return bool(fault["or_mask"] >> 24 < LIMITS["random"][fault["index"]])
    return bool(fault["xor_mask"].bit_length() <= LIMITS["flip"][fault["index"] // 2])


def small_campaign(seed: int, margin: float, section: dict[str, Any]) -> Any:
    adaptive = AdaptivePlanner(small_spec(seed, margin, section), SMALL, FEW)
    counts: list[StratumTally] = []
    while (parts := adaptive.round(len(counts), counts)) is not None:
        plan = table_of(parts)
        outcome = ["sdc1" if word_fails(fault) else "masked" for fault in plan.to_pylist()]
        rows = pa.table({"fault_id": plan.column("fault_id"), "outcome": pa.array(outcome).dictionary_encode()})
        counts.append(adaptive.counts_of(plan, [rows]))
        assert plan.column("inclusion").null_count == plan.num_rows  # never a census
    verdict = adaptive.verdict(counts)
    assert verdict.met
    return verdict.domains[0]


@pytest.mark.parametrize(
    ("section", "margin", "campaigns"),
    [
        ({"ops": ["random"]}, 0.08, 8),
        (OWN_BITS, 0.08, 8),
        pytest.param({"ops": ["random"]}, 0.02, 60, marks=pytest.mark.slow),
        pytest.param({"ops": ["random"]}, 0.05, 100, marks=pytest.mark.slow),
        pytest.param({"ops": ["random"]}, 0.1, 100, marks=pytest.mark.slow),
        pytest.param(OWN_BITS, 0.03, 60, marks=pytest.mark.slow),
        pytest.param(OWN_BITS, 0.1, 100, marks=pytest.mark.slow),
    ],
)
def test_no_place_is_known_when_it_was_drawn_once_if_what_strikes_it_is_random(
    section: dict[str, Any], margin: float, campaigns: int
) -> None:
    """24 places of a random word each, or 12 of rows whose words are struck in a bit of their own: far fewer than
    faults that the margin asks for, and not a word of them is known."""
    op = section["ops"][0]
    truth = float(np.mean(LIMITS[op])) / {"random": 256, "flip": 32}[op]
    domains = [small_campaign(seed, margin, section) for seed in range(campaigns)]
    held = sum(domain.low <= truth <= domain.high for domain in domains)
    assert held >= binom.ppf(1e-4, campaigns, 0.95)
    assert all(domain.half_width > margin / 4 for domain in domains)
    assert max(domain.faults for domain in domains) > 24  # more than there are places


# --- proxies ---------------------------------------------------------------------------------------------------------


def test_scores_steer_the_first_round_and_what_is_learnt_together() -> None:
    spec = spec_with(proxy="magnitude", steer="all", margin=0.005)
    groups = planner(spec_with(steer="all", margin=0.005)).groups
    scores = np.array([0.9 if group.values[-1] == "exponent_top" else 0.01 for group in groups])
    steered = AdaptivePlanner(spec, TABLES, TIERS, lambda groups: scores)
    plain = planner(spec_with(steer="all", margin=0.005))
    first = []
    for adaptive in (steered, plain):
        plan = table_of(adaptive.round(0, []) or []).to_pandas()
        first.append(plan[plan["where"] == "activation"]["bit_class"].value_counts())
    assert first[0]["exponent_top"] > 1.5 * first[1]["exponent_top"]
    counts, _ = campaign(steered)
    assert steered.verdict(counts).met


def test_scores_that_are_asked_for_must_be_given_and_only_then() -> None:
    with pytest.raises(UsageError, match=r"stop.proxy is 'gradient', and a proxy is not given"):
        planner(spec_with(proxy="gradient"))
    with pytest.raises(UsageError, match=r"stop.proxy is 'none', and a proxy is given"):
        AdaptivePlanner(parse_spec(SPEC), TABLES, TIERS, lambda groups: np.zeros(3))
    with pytest.raises(ValueError, match="3 scores were given for"):
        AdaptivePlanner(spec_with(proxy="magnitude"), TABLES, TIERS, lambda groups: np.zeros(3))


def test_a_campaign_that_is_planned_at_once_has_no_rounds() -> None:
    values = {key: value for key, value in SPEC.items() if key != "stop"}
    with pytest.raises(UsageError, match=r"no \[stop\] table"):
        planner(parse_spec(values))


# --- the spec --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("stop.margin", 0, r"stop\.margin"),
        ("stop.margin", 0.6, r"stop\.margin"),
        ("stop.per", "blocks", r"stop\.per: unknown dimension 'blocks'"),
        ("stop.strata", "site x site", r"stop\.strata: 'site x site' names a dimension twice"),
        ("stop.spending", "none", r"stop\.spending"),
        ("stop.growth", 1.0, r"stop\.growth"),
        (
            "stop.marginn",
            1,
            r"stop\.marginn: unknown key; did you mean 'margin'\? Known keys there: margin, confidence, per",
        ),
        ("stop.per", "tier", r"persistent faults strike the images of all tiers"),
        ("faults.0.per_stratum", 4, r"faults\[0\]\.per_stratum: \[stop\] decides how many"),
        ("faults.0.target", "attention", r'stop\.measure: the attention module has no classes; .* "outside"'),
    ],
)
def test_stop_tables_that_cannot_be_are_refused(path: str, value: Any, told: str) -> None:
    values = copy.deepcopy(SPEC)
    *parents, last = path.split(".")
    at: Any = values
    for part in parents:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    with pytest.raises(UsageError, match=told):
        parse_spec(values)


def test_rates_by_bit_are_of_one_number_format() -> None:
    mixed = SiteTable("model", "id", "gated_replace", (*TABLE, Site("block.2.mlp.fc1", "activation", (5, 16), "int8")))
    for per, refused in (("bit", True), ("block x bit", True), ("site x bit", False), ("bit_class", False)):
        spec = spec_with(per=per, steer="bit_class")
        if refused:
            with pytest.raises(UsageError, match=r"stop\.per: flip faults strike words in fp32 and int8"):
                AdaptivePlanner(spec, {"model": mixed}, TIERS)
        else:
            AdaptivePlanner(spec, {"model": mixed}, TIERS)
        planner(spec)


def test_confidence_is_the_campaigns_unless_said() -> None:
    values = copy.deepcopy(SPEC) | {"confidence": 0.9}
    spec = parse_spec(values)
    assert spec.stop is not None
    assert spec.stop.rule(spec.confidence).confidence == 0.9
    values["stop"]["confidence"] = 0.99
    spec = parse_spec(values)
    assert spec.stop is not None
    assert spec.stop.rule(spec.confidence).confidence == 0.99
