"""Adaptive plans of faults whose content is drawn with their place: no place is known after one draw."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from testbed.analysis.stratified import StratumTally
from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.site import Site, SiteTable
from tests.support.adaptive_plans import SPEC, table_of

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
def test_no_place_is_known_when_it_was_drawn_once_if_its_fault_is_random(
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
