"""A dry run refuses what the run would refuse, with the same words, and says what it could not look at."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.folder.images import named_images
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.preview.records import DryRunReport
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.cli.tables.summary import plan_tables
from testbed.core.errors import GateFailed, TestbedError, UsageError

NO_GOLDEN = "accuracy and images per tier: the golden of this model and these images is not recorded yet"
SECTION = {"target": "model", "where": "activation", "sites": ["head"], "bits": [30], "per_stratum": 2}


@pytest.fixture
def values(tiny_run: Path, tiny_values: dict[str, Any]) -> dict[str, Any]:
    """Quick to plan; model and golden are those of the tiny campaign, and so in the cache."""
    return tiny_values | {"faults": [copy.deepcopy(SECTION)]}


def told(plan: DryRunReport) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(plan_tables(plan))
    return capture.get()


def test_a_model_and_a_golden_that_are_there_are_known(values: dict[str, Any], tiny_run: Path, tmp_path: Path) -> None:
    plan = dry_run_plan(parse_spec(values), tmp_path / "run")
    assert plan.training_epochs == 0
    assert "on a model that is there already" in told(plan)
    assert plan.unchecked == ["the gates: parity, drift, zero-fault rows, live weights"]
    assert plan.warnings == []
    assert plan.images == len(named_images(tiny_run / "tiers.json").ids) == 6
    assert not (tmp_path / "run").exists()


def test_what_is_not_there_yet_is_said(values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "empty"))
    plan = dry_run_plan(parse_spec(values))
    assert plan.training_epochs == 6
    assert "after 6 epochs of training" in told(plan)
    assert NO_GOLDEN in plan.unchecked
    assert f"not checked: {NO_GOLDEN}" in told(plan)


def test_too_few_images_are_told_or_refused_as_by_the_run(values: dict[str, Any], tmp_path: Path) -> None:
    values["tiers"] = {"edges": [0.5, 1.0], "images": [3, 700]}
    plan = dry_run_plan(parse_spec(values))
    (warning,) = plan.warnings
    assert "(0.5, 1] has " in warning
    assert f"warning: {warning}" in told(plan)
    summary = run_campaign(parse_spec(values), tmp_path / "run", worker_setup=WorkerSetup(0))
    assert plan.tier_images == [tier.images for tier in summary.tiers]
    assert (plan.faults, plan.rows) == (summary.faults, summary.rows)
    values["tiers"]["exact"] = True
    assert refused(values, tmp_path / "exact", UsageError).startswith("tier 1 (0.5, 1] has ")


def test_an_accuracy_below_the_gate_is_refused_as_by_the_run(values: dict[str, Any], tmp_path: Path) -> None:
    values["gates"]["test_accuracy"] = 0.999
    assert "below gates.test_accuracy 0.999" in refused(values, tmp_path / "run", GateFailed)


def test_exposures_of_no_site_are_refused_as_by_the_run(values: dict[str, Any], tmp_path: Path) -> None:
    values["exposure"] = {"sites": {"block.9.*": 1.0}}
    assert "block.9.*" in refused(values, tmp_path / "run", UsageError)


def refused(values: dict[str, Any], folder: Path, kind: type[TestbedError]) -> str:
    """What the dry run says. The run says the same, but for what to do about it."""
    spec, words = parse_spec(values), []
    with pytest.raises(kind) as caught:
        dry_run_plan(spec)
    words.append(str(caught.value))
    with pytest.raises(kind) as caught:
        run_campaign(spec, folder, worker_setup=WorkerSetup(0))
    words.append(str(caught.value))
    assert words[0].partition(";")[0] == words[1].partition(";")[0]
    return words[0]


def test_exclusions_of_nothing_and_sections_without_a_stratum_are_warned_of(values: dict[str, Any]) -> None:
    values["faults"] = [SECTION | {"sites": ["head", "!nobody"]}, SECTION | {"per_stratum": 5}]
    assert dry_run_plan(parse_spec(values)).warnings == [
        "'!nobody' excludes no activation of model: there is none of that name",
        "faults.0 adds no fault: every stratum it names is another section's, which asks for as many or more",
    ]


def test_the_folder_and_the_disk_are_looked_at(
    values: dict[str, Any], tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: CampaignSpec = parse_spec(values)
    with pytest.raises(UsageError, match=r"holds another run .campaign 'tiny'., and faults were run in it"):
        dry_run_plan(spec, tiny_copy)
    before = sorted(tiny_copy.rglob("*"))
    assert dry_run_plan(spec, tiny_copy, fresh=True).faults > 0
    assert sorted(tiny_copy.rglob("*")) == before
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(
        TestbedError, match=r"the run needs about .* in .*/far/run, where 1000 bytes are free; free some"
    ):
        dry_run_plan(spec, tmp_path / "far" / "run")
