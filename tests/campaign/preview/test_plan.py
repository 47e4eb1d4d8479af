"""What a plan tells, against the sites of a real export, the formula, and the plan that is then made."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from testbed.analysis.stats import leveugle
from testbed.campaign.prepare.subjects import subject_of
from testbed.campaign.preview import plan as planning
from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.preview.plan import Preview, Wanted, wanted_of
from testbed.campaign.preview.records import PartPreview
from testbed.campaign.preview.sites import sketched_sites
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.spec.stop import dimensions
from testbed.cli.tables.summary import plan_tables
from testbed.core.errors import UsageError

WANTED = Wanted(0.05, 0.95)


@pytest.fixture
def spec(tiny_spec: CampaignSpec) -> CampaignSpec:
    return tiny_spec


@pytest.fixture
def adaptive(tiny_values: dict[str, Any]) -> CampaignSpec:
    values = tiny_values | {"stop": {"margin": 0.05, "measure": "outside"}}
    for section in values["faults"]:
        section.pop("per_stratum")
    return parse_spec(values)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", ["model", "attention"])
@pytest.mark.parametrize("overrides", [{}, {"norm_order": "post", "pooling": "mean_patches", "position": "2d"}])
def test_sketched_sites_are_those_of_the_export(
    tiny_values: dict[str, Any], precision: str, target: str, overrides: dict[str, Any]
) -> None:
    tiny_values["model"]["overrides"] |= overrides
    faults = [{"target": target, "where": "activation"}]
    spec = parse_spec(tiny_values | {"engine": {"precision": precision, "batch": 2}, "faults": faults})
    subject = subject_of(spec)
    plain = subject.sketch(target).plain
    wanted = [(s.name, s.where, s.shape, s.format_name) for s in subject.site_table(plain, target)]
    assert [(s.name, s.where, s.shape, s.format_name) for s in sketched_sites(spec, subject, target)] == wanted


def drawable(part: PartPreview) -> float:
    """A random word is one of 2^32: its places are no bound to how many can be drawn."""
    return math.inf if part.model.op == "random" else part.population


def test_every_stratum_is_told_with_its_population_and_what_is_drawn(spec: CampaignSpec) -> None:
    plan, dry = Preview(spec, WANTED), dry_run_plan(spec)
    parts = list(plan.parts())
    assert len(parts) == sum(section.strata for section in dry.sections) == plan.totals().strata
    assert sum(part.population for part in parts) == sum(section.population for section in dry.sections)
    assert sum(part.drawn for part in parts) == dry.faults == plan.totals().drawn.faults
    assert plan.totals().drawn.rows == dry.rows
    assert all(part.leveugle == leveugle(drawable(part), 0.05) for part in parts)
    first = parts[0].to_json()
    assert {key: first[key] for key in ("target", "where", "op", "bit", "tier", "strata")} == {
        "target": "model",
        "where": "activation",
        "op": "flip",
        "bit": 0,
        "tier": 0,
        "strata": 1,
    }


@pytest.mark.parametrize("by", ["block", "bit_class", "kind x tier", "all", "site x bit x tier"])
def test_strata_put_together_add_up(spec: CampaignSpec, by: str) -> None:
    finest, plan = list(Preview(spec, WANTED).parts()), Preview(spec, WANTED, dimensions(by))
    parts = list(plan.parts())
    keys = ["target", "where", "op", "pattern", "scope", *plan.by]
    assert len({tuple(part.to_json()[key] for key in keys) for part in parts}) == len(parts)
    for name in ("population", "drawn", "strata"):
        assert sum(getattr(part, name) for part in parts) == sum(getattr(part, name) for part in finest)
    assert plan.totals().parts == len(parts)


def test_a_relative_margin_asks_for_more_where_the_rate_is_small(spec: CampaignSpec) -> None:
    wanted = Wanted(0.2, 0.9, rate=0.1, relative=True)
    parts = list(Preview(spec, wanted, dimensions("all")).parts())
    assert all(part.leveugle == leveugle(drawable(part), 0.02, 0.9, 0.1) for part in parts)


def test_a_stratum_that_two_sections_name_is_of_the_one_that_asks_for_more(tiny_values: dict[str, Any]) -> None:
    everywhere = {
        "target": "model",
        "where": "activation",
        "ops": ["flip"],
        "bits": [30],
        "sites": ["*.softmax", "head"],
    }
    few, more = everywhere | {"per_stratum": 2}, everywhere | {"sites": ["*.softmax"], "per_stratum": 5}
    spec = parse_spec(tiny_values | {"faults": [few, more, few]})
    dry = dry_run_plan(spec)
    tiers = len(spec.tiers.images)
    assert [section.strata for section in dry.sections] == [tiers, tiers, 0]
    assert [section.faults for section in dry.sections] == [2 * tiers, 5 * tiers, 0]
    plan = Preview(spec, WANTED)
    assert sum(part.drawn for part in plan.parts()) == dry.faults == 7 * tiers
    assert plan_tables(dry)


def test_strata_are_told_as_they_come(spec: CampaignSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: the first ones do not wait for the last."""
    real = planning.sampled_strata
    monkeypatch.setattr(planning, "sampled_strata", lambda *a: itertools.chain(itertools.islice(real(*a), 3), _fall()))
    parts = Preview(spec, WANTED).parts()
    assert len(list(itertools.islice(parts, 3))) == 3
    with pytest.raises(AssertionError, match="a fourth was asked for"):
        next(parts)


def _fall() -> Any:
    raise AssertionError("a fourth was asked for")
    yield


def test_seconds_are_those_of_a_row_that_was_told(spec: CampaignSpec) -> None:
    for seconds in (0.25, None):
        plan = Preview(spec, WANTED, dimensions("block"), seconds_per_row=seconds)
        list(plan.parts())
        for cost in (plan.totals().drawn, plan.totals().leveugle):
            assert cost.seconds == (None if seconds is None else pytest.approx(cost.rows * seconds, abs=0.06))
    measured = Preview(spec, WANTED, dimensions("all"), measured=True)
    list(measured.parts())
    assert (measured.totals().drawn.seconds or 0) > 0


def test_an_adaptive_campaign_tells_its_first_round_and_its_bounds(adaptive: CampaignSpec) -> None:
    plan = Preview(adaptive, wanted_of(adaptive, None, None, 0.5, False))
    parts, bounds = list(plan.parts()), plan.head().adaptive
    assert bounds is not None
    assert plan.by == ("site", "block", "bit_class")
    assert [part.drawn for part in parts] == plan.planner.first_round().tolist()
    assert all(part.drawn >= min(2, part.population) for part in parts)
    assert (bounds.domains, bounds.strata) == (len(plan.planner.domains), len(parts))
    per_block = Preview(adaptive, plan.wanted, dimensions("block"))
    assert bounds.leveugle == sum(part.leveugle for part in per_block.parts())
    assert bounds.faults_at_least < bounds.leveugle
    assert per_block.totals().drawn.faults == sum(part.drawn for part in parts)


def test_what_is_not_said_is_as_the_spec_has_it(spec: CampaignSpec, adaptive: CampaignSpec) -> None:
    assert wanted_of(spec, None, None, 0.5, False) == Wanted(0.01, spec.confidence)
    assert wanted_of(adaptive, None, None, 0.5, False) == Wanted(0.05, adaptive.confidence)
    assert wanted_of(adaptive, 0.1, 0.8, 0.2, True) == Wanted(0.1, 0.8, 0.2, True)


def test_a_share_of_each_rate_is_told_at_the_rate_that_takes_most_faults(tiny_values: dict[str, Any]) -> None:
    values = tiny_values | {"stop": {"relative": 0.25, "measure": "outside"}}
    values["faults"] = [{key: v for key, v in section.items() if key != "per_stratum"} for section in values["faults"]]
    relative = parse_spec(values)
    wanted = wanted_of(relative, None, None, 0.5, False)
    assert wanted == Wanted(0.25, relative.confidence, 0.0005 / 0.25, True)
    assert wanted_of(relative, None, None, 0.1, False) == Wanted(0.25, relative.confidence, 0.1, True)
    bounds = Preview(relative, wanted).head().adaptive
    assert bounds is not None
    assert bounds.faults_at_least < bounds.forecast.faults
    assert bounds.rate == 0.0005 / 0.25


@pytest.mark.parametrize("wanted", [Wanted(0, 0.95), Wanted(0.1, 1), Wanted(0.1, 0.95, rate=0)])
def test_margins_that_no_sample_has_are_refused_at_once(spec: CampaignSpec, wanted: Wanted) -> None:
    with pytest.raises(UsageError):
        Preview(spec, wanted)


def test_a_dry_run_of_an_adaptive_campaign_points_to_its_plan(adaptive: CampaignSpec) -> None:
    with pytest.raises(UsageError, match="testbed campaign plan"):
        dry_run_plan(adaptive)
