"""The table [stop]: what it refuses, and what it takes from the campaign."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.spec.campaign import parse_spec
from testbed.core.errors import UsageError
from testbed.core.site import Site, SiteTable
from tests.support.adaptive_plans import SPEC, TABLE, TIERS, planner, spec_with


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
            r"stop\.marginn: unknown key; did you mean 'margin'\? Known keys there: margin, relative, confidence, per",
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


def test_a_campaign_that_is_planned_at_once_has_no_rounds() -> None:
    values = {key: value for key, value in SPEC.items() if key != "stop"}
    with pytest.raises(UsageError, match=r"no \[stop\] table"):
        planner(parse_spec(values))
