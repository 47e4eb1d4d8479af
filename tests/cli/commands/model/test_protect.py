"""``testbed protect`` under a budget, on a small trained model and its campaign."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

import testbed
from testbed.core.site import SiteTable
from tests.support.commands import answer, invoke, last_error_of
from tests.support.small_runs import train_small_vit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    return train_small_vit(tmp_path_factory.mktemp("runs") / "vit")


@pytest.fixture(scope="module")
def campaign(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("campaigns") / "flips"
    spec = path.parent / "flips.toml"
    spec.write_text(
        f'name = "flips"\n[model]\nrun = "{trained}"\n[tiers]\nedges = [1.0]\nimages = [12]\n[engine]\nbatch = 16\n'
        '[gates]\nzero_fault_rows = 32\n[[faults]]\ntarget = "model"\nwhere = "activation"\nops = ["flip"]\n'
        "bits = [30]\nper_stratum = 4\n"
    )
    result = invoke("campaign", "run", spec, "--run", path, "--workers", 0)
    assert result.exit_code == 0, result.output
    return path


QUICK = ("--calibration-images", 32, "--images", 60)


def test_the_chosen_places_are_what_is_written(trained: Path, campaign: Path, tmp_path: Path) -> None:
    asked = ("protect", trained, "--with", "range", "--by", "measured", "--campaign", campaign, "--cost", "macs")
    told = answer(*asked, "--budget", "2%", "--to", tmp_path / "guarded", *QUICK)
    placement = told["placement"]
    chosen = {weighed["name"] for weighed in placement["places"] if weighed["chosen"]}
    assert {spot["name"] for spot in told["files"][0]["passes"][0]["places"]} == chosen
    assert 0 < placement["cost_percent"] <= 2
    assert placement["greedy_gain"] <= placement["gain"]["share"] + 1e-9
    written = json.loads((tmp_path / "guarded" / "manifest.json").read_text())
    assert chosen <= set(json.dumps(written).split('"'))


def test_gains_are_the_sites_parts_of_the_campaigns_sdc1(trained: Path, campaign: Path, tmp_path: Path) -> None:
    asked = ("protect", trained, "--with", "range", "--by", "measured", "--campaign", campaign, "--cost", "macs")
    told = answer(*asked, "--budget", "1000%", "--to", tmp_path / "none", "--dry-run")
    rows = pd.read_parquet(campaign / "results.parquet", columns=["site", "outcome", "stratum"])
    sites = SiteTable.load(campaign / "model.sites.json").sites
    elements = {site.name: site.elements for site in sites}
    rates = (rows["outcome"].astype(str) == "sdc1").groupby(rows["site"].astype(str)).mean()
    parts = rates * pd.Series(elements)
    wanted = (parts / parts.sum()).to_dict()
    for weighed in told["placement"]["places"]:
        assert weighed["gain"]["share"] == pytest.approx(wanted[weighed["name"]])
        assert weighed["gain"]["low"] <= weighed["gain"]["share"] <= weighed["gain"]["high"]
    assert not (tmp_path / "none").exists()


def test_a_score_and_latency_choose_too(trained: Path, tmp_path: Path) -> None:
    told = answer(
        *("protect", trained, "--with", "checksum,duplicate", "--by", "magnitude", "--budget", "900%"),
        *("--to", tmp_path / "none", "--dry-run"),
    )["placement"]
    assert {weighed["step"] for weighed in told["places"]} == {"checksum", "duplicate"}
    assert told["gain"] == {"share": pytest.approx(1), "low": None, "high": None}
    assert told["latency"]["value"] > 0
    assert all(weighed["cost"]["runs"] >= 6 for weighed in told["places"])


def test_python_chooses_the_same(trained: Path, campaign: Path, tmp_path: Path) -> None:
    result = testbed.protect_model(
        trained,
        tmp_path / "guarded",
        ["range"],
        by="measured",
        budget=2,
        cost="macs",
        campaign=campaign,
        calibration_images=32,
        images=60,
    )
    assert result.places["chosen"].sum() == len(result.content.files[0].applied[0].places)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--by", "measured"], "--by and --budget go together"),
        (["--budget", "5%"], "--by and --budget go together"),
        (["--cost", "macs"], "add --by measured --budget 5%"),
        (["--by", "eap-ig", "--budget", "5%", "--campaign", "elsewhere"], "with --by measured, not with --by eap-ig"),
        (
            ["--by", "magnitude", "--budget", "0.0001%", "--cost", "macs"],
            r"fits no place: the cheapest, range of .*costs 0\.",
        ),
        (["--by", "magnitude", "--budget", "cheap"], "is not a number of per cent"),
        (["--by", "magnitude", "--budget", "9%", "--cost", "macs", "--where", "norm"], "gains anything by magnitude"),
    ],
)
def test_what_cannot_be_chosen_is_said_in_one_line(
    trained: Path, tmp_path: Path, options: list[str], wanted: str
) -> None:
    refused = invoke("protect", trained, "--with", "range", "--to", tmp_path / "none", *options)

    assert re.search(wanted, last_error_of(refused, 2))
    assert not (tmp_path / "none").exists()
