"""Which settings a run folder takes: its own, others as long as nothing was run, any with ``fresh``."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.folder.claim import claimed, clean, differences
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.results.store import ResultStore
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.runfolder import RunFolder


def other(spec: CampaignSpec, **values: Any) -> CampaignSpec:
    return parse_spec(spec.identity() | values)


@pytest.fixture
def fewer(tiny_spec: CampaignSpec) -> CampaignSpec:
    """One section, other images, another engine batch: quick to run."""
    section = {"target": "model", "where": "activation", "sites": ["head"], "bits": [30], "per_stratum": 3}
    return other(
        tiny_spec,
        tiers={"edges": [0.5, 1.0], "images": [2, 2]},
        engine={"batch": 8},
        faults=[section],
    )


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_folder_without_faults_takes_other_settings_and_gives_the_rows_of_a_new_one(
    gated: Path, fewer: CampaignSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = RunFolder.existing(gated).manifest["stages"]
    (gated / "notes.txt").write_text("mine")
    with caplog.at_level(logging.INFO):
        logging.getLogger("testbed").propagate = True
        summary = run_campaign(fewer, gated, worker_setup=WorkerSetup(0))
    fresh = run_campaign(fewer, tmp_path / "new", worker_setup=WorkerSetup(0))
    assert (
        "no fault was run; it is made anew where they count: tiers.images: [3, 3] -> [2, 2]; engine.batch: 16 -> 8"
        in caplog.text
    )
    assert sha256_file(gated / "results.parquet") == sha256_file(tmp_path / "new" / "results.parquet")
    assert summary.marginals == fresh.marginals
    after = RunFolder.existing(gated).manifest["stages"]
    for stage in ("train", "golden"):
        assert after[stage] == before[stage]  # not made again
    assert files(gated) - {"notes.txt"} == files(tmp_path / "new")  # nothing of the attention, no old plan


def test_one_fault_in_the_log_is_enough_to_refuse(gated: Path, fewer: CampaignSpec, tiny_spec: CampaignSpec) -> None:
    with ResultStore(gated / "store", "identity"):
        pass
    assert claimed(gated, fewer).manifest["stages"].keys() == {"train", "golden"}
    with ResultStore(gated / "store", "identity") as store:
        store.append(0, b"rows")
    with pytest.raises(
        UsageError, match=r"faults were run in it\. What differs here: tiers\.images: \[3, 3\] -> \[2, 2\]"
    ):
        claimed(gated, fewer)
    assert claimed(gated, tiny_spec).manifest["stages"].keys() > {"tune"}


def test_another_model_or_seed_keeps_nothing(gated: Path, tiny_spec: CampaignSpec) -> None:
    assert claimed(gated, other(tiny_spec, seed=7)).manifest["stages"] == {}
    threads = other(tiny_spec, engine=tiny_spec.identity()["engine"] | {"threads": 2})
    assert claimed(gated, threads).manifest["stages"].keys() == {"train"}


def test_fresh_gives_up_the_rows_and_keeps_what_is_not_its_own(
    tiny_copy: Path, fewer: CampaignSpec, tmp_path: Path
) -> None:
    (tiny_copy / "golden" / "notes.txt").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "attention.npy").write_text("not the run's")
    shutil.rmtree(tiny_copy / "inputs")
    (tiny_copy / "inputs").symlink_to(elsewhere)
    folder = claimed(tiny_copy, fewer, fresh=True)
    with folder.locked():
        clean(folder)
        folder.save()
    assert files(tiny_copy) == {"manifest.json", ".lock", "golden/notes.txt"}
    assert (elsewhere / "attention.npy").exists()
    assert RunFolder.existing(tiny_copy).manifest["stages"] == {}


def test_fresh_refuses_what_is_no_campaign_of_ours(tmp_path: Path, fewer: CampaignSpec) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="--fresh removes nothing there"):
        claimed(tmp_path, fewer, fresh=True)
    RunFolder.claimed(tmp_path / "model", "model", "vit", {}, ["testbed"]).save()
    for fresh in (False, True):
        with pytest.raises(
            UsageError, match=r"holds a model \('vit'\), not a campaign; choose another folder with --run"
        ):
            claimed(tmp_path / "model", fewer, fresh=fresh)
    assert claimed(tmp_path / "new", fewer, fresh=True).manifest["name"] == "tiny"


def test_differences_are_told_by_their_keys() -> None:
    old = {"a": {"b": [1, 2], "c": None}, "faults": [{"bits": "all"}, {"bits": [1]}], "gone": 1}
    new = {"a": {"b": [1, 3], "c": "x"}, "faults": [{"bits": "all"}, {"bits": [2]}, {"op": "flip"}]}
    assert differences(old, new) == (
        'a.b: [1, 2] -> [1, 3]; faults.1.bits: [1] -> [2]; gone: 1 -> not set; a.c: not set -> "x"; faults.2.op: not set ->'
        ' "flip"'
    )
    assert differences(old, old) == ""
    assert differences({str(n): 0 for n in range(11)}, {}).endswith("; and 3 more")
