"""Campaigns to a share of each rate: strata by golden value, killed and gone on with, workers, and files of theirs."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from testbed.api.progress_text import lines
from testbed.campaign import pipeline
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.plan.adaptive import DESIGN
from testbed.campaign.results.status import campaign_status
from testbed.campaign.results.status_file import read_status
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.stop_facts import StopFacts
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import StaleArtefact
from testbed.core.folder.files import write_json
from testbed.core.folder.runfolder import RunFolder
from testbed.report.read.evidence import read_evidence
from testbed.report.sections.rounds import design_worth, rounds
from tests.support.campaigns import TINY, run_here
from tests.support.clusters import Cluster
from tests.support.finished import finished
from tests.support.victims import KILLED, Victims, assert_same_rows, leftovers

TEXT = (
    TINY.read_text().split("[[faults]]")[0].replace('"tiny"', '"relative"')
    + """
[[faults]]
target = "model"
where = "activation"
sites = ["*.softmax", "*.mlp.*", "head"]
ops = ["flip"]

[[faults]]
target = "model"
where = "weight"
sites = ["*.fc1.weight"]
ops = ["flip"]
bits = [3, 30]
images = 4  # what is chosen otherwise follows from times, and two campaigns are compared

[stop]
relative = 0.4
margin = 0.03
max_faults = 6000
"""
)
SPEC = tomllib.loads(TEXT)


@pytest.fixture(scope="module")
def whole(shared_folder: Path, cache_dir: Path) -> Path:
    """The finished campaign. Only to be read."""
    return finished(shared_folder / "runs" / "relative", SPEC)


def stop_facts(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "manifest.json").read_text())["stages"]["execute"]["facts"]["stop"]
    return facts


def test_a_relative_margin_brings_its_own_strata_and_is_met(whole: Path) -> None:
    facts = stop_facts(whole)
    assert (facts["strata"], facts["steer"]) == ("site x bit_class x value", "bit_class x value")
    assert facts["rounds"] >= 3
    for domain in facts["history"][-1]["domains"]:
        if domain["met"]:
            assert domain["high"] - domain["low"] <= 2 * max(0.03, 0.4 * domain["rate"]) + 1e-6
    assert any(domain["met"] for domain in facts["history"][-1]["domains"])


def test_it_tells_what_the_design_was_worth(whole: Path) -> None:
    facts = stop_facts(whole)
    assert len(facts["gains"]) == len(facts["history"][-1]["domains"])
    known = [gain for gain in facts["gains"] if gain["total"] is not None]
    assert known
    for gain in known:
        assert gain["total"] == pytest.approx(gain["strata"] * gain["values"] * gain["allocation"], rel=1e-2)
    stop = StopFacts.model_validate(facts)
    told = design_worth(stop)
    assert told.startswith("worth ")
    assert "golden values" in told
    section = rounds(read_evidence(whole))
    assert section is not None
    assert [end.faults for end in section.domains] == [d["faults"] for d in facts["history"][-1]["domains"]]


def test_strata_hold_values_of_one_class_and_populations_add_up(whole: Path) -> None:
    rows = pq.read_table(whole / "results.parquet").to_pandas()
    plan = pq.read_table(whole / "faults.parquet").to_pandas()
    top = rows[(rows["where"] == "activation") & (rows.bit == 30)]
    classes = np.searchsorted([0.5, 1, 2], top.golden_value.abs(), side="right")
    assert top.assign(value=classes).groupby("stratum").value.nunique().max() == 1
    assert len(set(classes)) >= 3
    sites = json.loads((whole / "model.sites.json").read_text())["sites"]
    struck = plan[plan["where"] == "activation"]
    total = int(struck.groupby("stratum").population.first().sum())
    elements = {site["name"]: int(np.prod(site["shape"])) for site in sites}
    names = struck.site.astype(str).unique()
    assert total == pytest.approx(sum(elements[name] for name in names) * 6 * 32, rel=1e-3)


def test_killed_at_random_it_ends_with_the_same_rows(victims: Victims, whole: Path, tmp_path: Path) -> None:
    spec, run, dice = tmp_path / "spec.toml", tmp_path / "run", random.Random(2)
    spec.write_text(TEXT)
    argv = ["campaign", "run", str(spec), "--run", str(run)]
    for _ in range(4):
        assert victims.run(run, *argv, "--workers", "0", kill_after=dice.uniform(0.5, 3)) in (KILLED, 0)
    assert victims.run(run, *argv, "--workers", "2") == 0, victims.told()
    assert_same_rows(run, whole)
    assert leftovers(run) == []


@pytest.mark.slow
def test_on_a_cluster_its_rounds_are_the_same(whole: Path, tmp_path: Path) -> None:
    """Strata by golden value, rounds, and weight faults on the images that the pilot chose."""
    run = shutil.copytree(whole, tmp_path / "run")
    (folder := tmp_path / "cluster").mkdir()
    cluster = Cluster(folder)
    try:
        cluster.start("one")
        cluster.start("two")
        run_campaign(parse_spec(SPEC), run, redo="plan", worker_setup=WorkerSetup(scheduler=cluster.address))
    finally:
        cluster.close()
    assert_same_rows(run, whole)


def test_classes_that_were_changed_are_refused_by_name(victims: Victims, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    file = run / "values" / "model.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StaleArtefact, match=r"values/model\.npy"):
        run_here(parse_spec(SPEC), run)


def test_half_a_campaign_of_another_design_is_not_gone_on_with(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished one is left as it is; of an unfinished one nothing is lost, and the line says what to do."""
    run = shutil.copytree(whole, tmp_path / "run")
    with monkeypatch.context() as later:
        later.setattr(pipeline, "DESIGN", DESIGN + 1)
        run_here(parse_spec(SPEC), run)
        folder = RunFolder.existing(run)
        folder.redo("execute", list(folder.manifest["stages"]))
        folder.save()
        with pytest.raises(StaleArtefact, match=rf"begun by version {DESIGN} of the adaptive design.* --redo plan"):
            run_here(parse_spec(SPEC), run)
    run_here(parse_spec(SPEC), run)
    assert_same_rows(run, whole)


def test_its_status_tells_every_rate_the_least_known_first(whole: Path) -> None:
    report = campaign_status(whole)
    widest = report.snapshot.widest
    assert widest is not None
    domains = stop_facts(whole)["history"][-1]["domains"]
    assert [rate.met for rate in widest.rates] == [domain["met"] for domain in domains]
    told = lines(report.snapshot)[-1]
    worst = max(widest.rates, key=lambda rate: rate.halfwidth / rate.margin)
    known = sum(rate.met for rate in widest.rates)
    assert told.startswith(f"rates known: {known} of {len(domains)}: ±")
    assert told.split("; ")[0].endswith(worst.group.split(", ")[-1] + ("" if worst.met else " (open)"))
    write_json(whole.parent / "status.json", asdict(report.snapshot))
    assert read_status(whole.parent / "status.json").widest == widest
