"""What a dry run says of the gates, held against what the gates of the same campaign did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.evaluate import repay
from testbed.campaign.gate_facts import GateFacts
from testbed.campaign.preview import dry_run
from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.proofs import SuffixRecord, WeightRecord
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of

IMAGES = 6


def test_rows_of_the_gates_are_those_that_they_run(
    tiny_run: Path, tiny_spec: CampaignSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*values: Any) -> dry_run.MeasuredTarget:
        return real(*values)._replace(seconds=2.0)  # a batch of 16

    real = dry_run.sites_and_speed
    monkeypatch.setattr(dry_run, "sites_and_speed", slow)
    facts = facts_of(RunFolder.existing(tiny_run), "gates", GateFacts)
    activations, weights = facts.proof("model", "activation").seen, facts.proof("model", "weight").seen
    assert isinstance(activations, SuffixRecord)
    assert isinstance(weights, WeightRecord)
    both_ways = 2 * (activations.rows + weights.faults * IMAGES)
    plan = dry_run_plan(tiny_spec)
    assert plan.gate_rows == facts.zero_fault.rows + both_ways
    assert plan.gate_seconds == pytest.approx(2.0 * plan.gate_rows / 16, abs=0.1)


def test_evaluations_that_are_not_looked_for_take_no_rows(
    tiny_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [section | {"per_stratum": 1, "bits": [30], "ops": ["flip"]} for section in tiny_values["faults"][:2]]
    spec = parse_spec(tiny_values | {"faults": few})
    looked_for = dry_run_plan(spec).gate_rows
    monkeypatch.setattr(repay, "LARGE_MODEL", 1000)
    large = dry_run_plan(spec).gate_rows
    whole = dry_run_plan(parse_spec(tiny_values | {"faults": few, "engine": {"evaluation": "whole"}})).gate_rows
    assert large == whole == 64 + 2 * IMAGES  # rows that change nothing, and each of two weights
    assert looked_for > whole
