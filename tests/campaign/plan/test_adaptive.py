"""Adaptive plans: rounds that follow from the rows before them, uniform draws that never repeat, intervals that hold."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from testbed.analysis.stratified import StratumTally
from testbed.analysis.survey import SurveyDesign
from testbed.campaign.plan.adaptive import DESIGN, AdaptivePlanner
from testbed.campaign.plan.table import plan_slices
from testbed.campaign.results.snapshot import widest_domain
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.stop_facts import DomainFacts
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.schema import PLAN_COLUMNS, arrow_schema
from tests.support.adaptive_plans import (
    IMAGES,
    SPEC,
    TABLE,
    TABLES,
    TIERS,
    campaign,
    fails,
    planner,
    ran,
    spec_with,
    table_of,
)


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
    assert not rows.assign(group=rows["stratum"] % len(finished[0].groups)).duplicated(["group", "draw"]).any()


def test_draws_and_inclusion_count_on_through_the_rounds(finished: Any) -> None:
    adaptive, _, plans = finished
    drawn = np.zeros(len(adaptive.groups), int)
    for plan in plans:
        rows = plan.to_pandas()
        for number, part in rows.groupby("stratum"):
            stratum = int(number) % len(adaptive.groups)
            assert set(part["round"]) == {int(number) // len(adaptive.groups)}
            n = drawn[stratum] + len(part)
            assert sorted(part["draw"]) == list(range(drawn[stratum], n))
            drawn[stratum] = n
            population = adaptive.groups[stratum].population
            assert set(part["population"]) == {population}
            np.testing.assert_allclose(part["inclusion"], n / population)


def test_every_fault_is_of_the_stratum_that_it_is_counted_in(finished: Any) -> None:
    adaptive, _, plans = finished
    for row in pa.concat_tables(plans).to_pylist():
        group = adaptive.groups[row["stratum"] % len(adaptive.groups)]
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
    assert rounds[0].num_rows != rounds[1].num_rows


def test_counts_are_those_of_the_rows_in_whatever_parts(finished: Any) -> None:
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
    """Of strata that are what each round drew, weighed by what its draws stand for: a plain stratified sample."""
    adaptive, counts, plans = finished
    verdict = adaptive.verdict(counts)
    plan, rows = pa.concat_tables(plans).to_pandas(), pa.concat_tables([ran(plan) for plan in plans]).to_pandas()
    populations = adaptive.populations(counts)
    assert populations.sum() == pytest.approx(sum(group.population for group in adaptive.groups), rel=0.01)
    plan["population"] = populations[plan["stratum"]]
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
        wanted = SurveyDesign(mine["stratum"], mine["population"], mine["fault_id"]).estimate(mine["outcome"] == "sdc1")
        assert domain.rate == pytest.approx(wanted.rate, rel=0.02)  # populations are whole numbers
        assert domain.half_width <= 0.05
        assert domain.confidence >= 0.95
        assert domain.faults == mine["fault_id"].nunique()


def test_the_history_tells_every_round(finished: Any) -> None:
    adaptive, counts, plans = finished
    history = adaptive.history(counts, [2.5 * (n + 1) for n in range(len(counts))])
    assert [record.faults for record in history] == np.cumsum([plan.num_rows for plan in plans]).tolist()
    assert [record.round for record in history] == list(range(len(plans)))
    assert history[1].seconds == 5.0
    assert history[0].open == 4
    assert history[-1].open == 0
    assert history[-1].widest < history[0].widest
    assert history[-1].domains[1].block == 1
    assert history[-1].domains[3].where == "weight"
    assert all(domain.met for domain in history[-1].domains)


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


def test_scores_steer_the_first_round_and_what_is_learnt_together() -> None:
    spec = spec_with(proxy="magnitude", steer="all", margin=0.0015)
    groups = planner(spec_with(steer="all", margin=0.0015)).groups
    scores = np.array([0.9 if group.values[-1] == "exponent_top" else 0.01 for group in groups])
    steered = AdaptivePlanner(spec, TABLES, TIERS, lambda groups: scores)
    plain = planner(spec_with(steer="all", margin=0.0015))
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


def test_relative_margins_are_met_in_both_places_and_the_floor_where_hardly_anything_fails() -> None:
    adaptive = planner(spec_with(margin=0.01, relative=0.25))
    counts, _ = campaign(adaptive)
    verdict = adaptive.verdict(counts)
    assert verdict.met
    assert {domain.model.where for domain in verdict.domains} == {"activation", "weight"}
    for domain in verdict.domains:
        assert domain.half_width <= max(0.01, 0.25 * domain.rate)
    assert max(domain.half_width for domain in verdict.domains) > 0.015  # an absolute margin would have asked for more
    facts = [adaptive.facts_of_domain(domain) for domain in verdict.domains]
    worst = widest_domain(facts, adaptive.stop, 0.95)
    assert worst.halfwidth <= (worst.margin or 0)
    assert worst.group.endswith("% of its rate")


def test_the_widest_domain_is_the_one_that_is_furthest_from_its_own_margin() -> None:
    stop = spec_with(margin=0.01, relative=0.1).stop
    assert stop is not None
    domain: dict[str, Any] = {"target": "model", "where": "weight", "op": "flip", "faults": 10, "confidence": 0.95}
    often = DomainFacts(**domain, block=0, rate=0.5, half_width=0.045)
    never = DomainFacts(**domain, block=1, rate=0.0, half_width=0.012)
    worst = widest_domain([often, never], stop, 0.95)
    assert (worst.group, worst.margin) == ("model weight, flip, block 1", 0.01)
    assert widest_domain([often], stop, 0.95).group == "model weight, flip, block 0, ±9 % of its rate"
    assert widest_domain([often], stop, 0.95).margin == 0.05


@pytest.mark.parametrize(
    ("stop", "faults"),
    [({}, [52, 68, 129, 273, 62]), ({"relative": 0.2, "margin": 0.02}, [52, 83, 204, 437, 58])],
)
def test_rounds_of_a_design_are_what_they_were(stop: dict[str, float], faults: list[int]) -> None:
    """Others than these: raise `DESIGN`, so that no half of a campaign is gone on with, and put the new ones here."""
    assert DESIGN == 3
    assert [plan.num_rows for plan in campaign(planner(spec_with(**stop)))[1]] == faults
