"""Persistent faults that are run on some of the images: the rows that a campaign of all images has, killed or not."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import testbed
from testbed.campaign.folder.workplace import Workplace, even_batch
from testbed.campaign.results.reader import RESULT_TABLE
from testbed.campaign.spec.campaign import parse_spec
from testbed.compare.campaigns import compare_campaigns
from testbed.compare.engine_record import EngineComparison
from testbed.core.errors import UsageError
from tests.support.campaigns import TINY, run_here
from tests.support.once import made_once
from tests.support.victims import KILLED, Victims, assert_same_rows, leftovers

KEY = ["fault_id", "image_id"]


LASTING = """
[[faults]]
target = "model"
where = "activation"
scope = "persistent"
sites = ["head"]
ops = ["flip"]
bits = [0, 30]
per_stratum = 4
"""


def spec_text(images: int | None) -> str:
    """The tiny campaign's weights, and some activations that last, in batches of two."""
    head, activations, weights, _, of_attention = TINY.read_text().split("[[faults]]")
    assert "activation" in activations
    text = (
        head.replace("batch = 16", "batch = 2")
        + LASTING
        + "".join(f"[[faults]]{part}" for part in (weights, of_attention))
    )
    return text if images is None else text.replace("per_stratum", f"images = {images}\nper_stratum")


def values(images: int | None) -> dict[str, Any]:
    return tomllib.loads(spec_text(images)) | {"exposure": {"sites": {"*": 1.0}}}


@pytest.fixture(scope="session")
def some_images(shared_folder: Path, cache_dir: Path) -> Path:
    """A finished campaign of two images for each fault."""
    return made_once(shared_folder / "runs" / "two-images", lambda path: run_here(parse_spec(values(2)), path))


@pytest.fixture(scope="session")
def all_images(shared_folder: Path, cache_dir: Path) -> Path:
    """The same of all six."""
    return made_once(shared_folder / "runs" / "all-images", lambda path: run_here(parse_spec(values(None)), path))


def rows(folder: Path) -> pd.DataFrame:
    return RESULT_TABLE.read(folder / "results.parquet").to_pandas()


def test_rows_are_those_of_a_campaign_of_all_images(some_images: Path, all_images: Path) -> None:
    """The same faults, in the same batches of two: every bit of the logits."""
    some, every = rows(some_images), rows(all_images)
    assert len(some) * 3 == len(every)
    assert (some.groupby("fault_id")["image_id"].nunique() == 2).all()
    assert some["image_id"].nunique() == 6
    joined = some.merge(every, on=KEY, suffixes=("", "_all"), validate="one_to_one")
    assert len(joined) == len(some)
    for name in ("site", "index", "outcome", "faulty_word", "max_abs_diff", "evaluation"):
        assert joined[name].equals(joined[f"{name}_all"].astype(joined[name].dtype)), name
    of_model = joined[joined["target"] == "model"]
    logits, wanted = (np.stack(of_model[name].tolist()) for name in ("logits", "logits_all"))
    assert logits.tobytes() == wanted.tobytes()


def test_rates_and_exposures_are_about_those_of_all_images(some_images: Path, all_images: Path) -> None:
    with testbed.open_run(some_images) as run, testbed.open_run(all_images) as whole:
        for by in ((), ("tier",)):
            some, every = run.rates(by=by), whole.rates(by=by)
            assert (some["low"] <= every["estimate"]).all()
            assert (every["estimate"] <= some["high"]).all()
            assert (some["n"] < every["n"]).all()
        weight = run.results["weight"]
        np.testing.assert_allclose(weight.sum(), whole.results["weight"].sum())
        assert run.summary.exposure is not None


def test_weight_faults_are_run_in_batches_of_their_images(some_images: Path, all_images: Path, tmp_path: Path) -> None:
    assert [even_batch(rows, 16) for rows in (1, 4, 16, 17, 20, 40)] == [1, 4, 16, 9, 10, 14]
    for folder, few in ((some_images, 2), (all_images, 16)):
        workplace = Workplace.at(Path(shutil.copytree(folder, tmp_path / folder.name)))
        for campaign, wanted in ((1, 1), (2, 2), (16, few)):  # 1: where rows influence each other
            workplace.folder.manifest["stages"]["tune"]["facts"]["batch"] = campaign
            assert workplace.batch_of("model", "weight") == wanted
            assert workplace.batch_of("model", "activation") == campaign


def test_two_campaigns_are_compared_on_the_images_of_both(some_images: Path, all_images: Path) -> None:
    compared = compare_campaigns(some_images, all_images)
    assert isinstance(compared, EngineComparison)
    assert compared.pairing.rows == len(rows(some_images))
    assert compared.pairing.only_a == 0
    assert compared.disagreements.rows == 0


def test_a_fault_is_replayed_on_its_own_images(some_images: Path) -> None:
    stored = rows(some_images)
    with testbed.open_run(some_images) as run:
        for where in ("weight", "activation"):
            row = stored[(stored["where"] == where) & (stored["target"] == "model")].iloc[-1]
            fault, image = int(row["fault_id"]), str(row["image_id"])
            assert run.replay(fault, image).faulty.tobytes() == row["logits"].tobytes()
            ran = stored.loc[stored["fault_id"] == fault, "image_id"].astype(str).tolist()
            assert run.replay(fault).image_id == ran[0]
            other = next(name for name in run.image_ids if name not in ran)
            with pytest.raises(UsageError, match=rf"fault {fault} was not run on image '{other}'; its images are"):
                run.replay(fault, other)


def test_killed_and_started_again_it_has_the_same_images(victims: Victims, some_images: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(spec_text(2))
    argv = ["campaign", "run", str(tmp_path / "spec.toml"), "--run", str(tmp_path / "run"), "--workers", "0"]
    assert victims.run(tmp_path / "run", *argv, manifests=10) in (KILLED, 0)
    for write in (6, 2, 5):
        assert victims.run(tmp_path / "run", *argv, writes=write) in (KILLED, 0)
    assert victims.run(tmp_path / "run", *argv) == 0
    assert_same_rows(tmp_path / "run", some_images)
    assert leftovers(tmp_path / "run") == []


def test_workers_of_their_own_give_the_same_rows(some_images: Path, tmp_path: Path) -> None:
    from testbed.campaign.pipeline import run_campaign
    from testbed.campaign.work.worker_setup import WorkerSetup

    run_campaign(parse_spec(values(2)), tmp_path / "run", worker_setup=WorkerSetup(2))
    assert_same_rows(tmp_path / "run", some_images)
