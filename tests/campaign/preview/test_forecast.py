"""What an adaptive campaign is forecast to cost: near what it costs when played out on such rates, and honest elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from testbed.analysis.adaptive.simulation import SimulatedTruth, play
from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.preview.forecast import RATES, forecast, reasons
from testbed.core.site import Site, SiteTable
from tests.support.adaptive_plans import TIERS, spec_with

WIDE = SiteTable(
    "model",
    "id",
    "xor",
    tuple(
        Site(f"block.{block}.{name}", "activation", (65, 64)) for block in range(2) for name in ("attn.q", "mlp.fc1")
    ),
)
FLIPS: list[dict[str, object]] = [{"target": "model", "where": "activation", "ops": ["flip"]}]


def planner(table: SiteTable = WIDE, faults: Sequence[Mapping[str, object]] = FLIPS, **stop: object) -> AdaptivePlanner:
    spec = spec_with(**stop)
    sections = type(spec).model_validate(spec.model_dump() | {"faults": list(faults)})
    return AdaptivePlanner(sections, {"model": table}, TIERS)


def test_it_is_what_campaigns_on_such_rates_need() -> None:
    plan = planner(relative=0.2, margin=0.002)
    told = forecast(plan)
    known = RATES["activation", "sdc1"]
    rates = [
        np.mean([known.get(stratum.site.format.bit_class(stratum.bit), 0) for _, stratum in group.members])
        for group in plan.groups
    ]
    played = play(SimulatedTruth.of(plan.frame, rates), plan.stop.rule(0.95), 30, seed=5)
    np.testing.assert_allclose(told.faults, np.median(played.per_domain, axis=0), rtol=0.2)
    assert told.alike
    assert (told.uniform > 2 * told.faults).all()


def test_a_rate_that_is_expected_is_that_of_every_part() -> None:
    plan = planner(relative=0.2, margin=0.002)
    few, many = (forecast(plan, rate) for rate in (0.01, 0.1))
    np.testing.assert_allclose(few.rates, 0.01)
    np.testing.assert_allclose(many.rates, 0.1, rtol=0.05)
    assert (many.faults < few.faults).all()
    for rate in (1e-5, 0.002, 1 / 3, 0.97):  # no rounding makes a rate of less than 0 or more than 1
        np.testing.assert_allclose(forecast(planner(relative=0.5, margin=0.05), rate).rates, rate, rtol=0.05)
    assert "so that rates are 1 %" in list(reasons(plan, few))


@pytest.mark.parametrize(
    ("table", "section"),
    [
        (WIDE, {"ops": ["random"]}),
        (WIDE, {"pattern": "row"}),
        (SiteTable("model", "id", "xor", (Site("block.0.fc1", "activation", (65, 64), "int8"),)), {}),
    ],
)
def test_where_nothing_like_it_was_measured_strata_are_taken_to_be_alike(
    table: SiteTable, section: dict[str, object]
) -> None:
    plan = planner(table, [FLIPS[0] | section], relative=0.2, margin=0.01)
    told = forecast(plan)
    assert not told.alike
    np.testing.assert_allclose(told.rates, 0.05)
    assert next(reasons(plan, told)) == "all strata are taken to fail alike"
