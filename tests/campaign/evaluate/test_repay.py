"""Gates of large models are run where the campaign's faults repay them; rows are the same bits either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from testbed.campaign.evaluate import repay
from testbed.campaign.evaluate.suffix.sample import sample, sample_size
from testbed.campaign.files import RESULTS
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.gate_facts import GateFacts
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from tests.support.suffix_lab import IMAGES, Lab, exported


@pytest.mark.parametrize("per_kind", [1, 4])
def test_the_sample_of_the_gate_is_as_large_as_it_is_said_to_be(per_kind: int) -> None:
    model = Lab(exported("pre-norm"))
    drawn = sample(model.table.ports, model.table, model.live, IMAGES, per_kind, seed=3)
    assert sample_size(model.table, per_kind) == len(drawn)


def evaluations(folder: Path) -> list[tuple[str, str]]:
    """By what faults were evaluated, and why not by something faster."""
    facts = facts_of(RunFolder.existing(folder), "gates", GateFacts)
    return [(proof.by, proof.why or "") for proof in facts.evaluation.values()]


def test_a_large_model_with_few_faults_is_run_whole_and_gives_the_same_rows(
    tiny_spec: CampaignSpec, run_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[dict[str, Any]] = [{"per_stratum": 1}, {"per_stratum": 1, "bits": (30,)}]
    sections = (section.model_copy(update=few) for section, few in zip(tiny_spec.faults, changes, strict=False))
    few = tiny_spec.model_copy(update={"faults": tuple(sections)})
    run_spec(few, tmp_path / "small")
    monkeypatch.setattr(repay, "LARGE_MODEL", 1000)
    run_spec(few, tmp_path / "large")
    assert [by for by, _ in evaluations(tmp_path / "small")] == ["suffix", "suffix"]
    large = evaluations(tmp_path / "large")
    assert [by for by, _ in large] == ["whole", "whole"]
    assert all(why.startswith("too few faults (") for _, why in large)
    by_parts, whole = (
        pq.read_table(tmp_path / name / RESULTS).drop_columns(["evaluation"]).to_pandas() for name in ("small", "large")
    )
    assert len(whole) > 40
    pd.testing.assert_frame_equal(by_parts, whole, check_exact=True)


def test_many_faults_repay_a_gate_of_a_large_model(
    tiny_copy: Path, tiny_spec: CampaignSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repay, "LARGE_MODEL", 1000)
    workplace = Workplace(RunFolder.existing(tiny_copy), tiny_spec)
    for (target, where), patterns in tiny_spec.target_places.items():
        wanted = [pattern for own in patterns for pattern in own]
        assert not repay.unrepaid(workplace, target, where, workplace.table(target).select(where, wanted))
