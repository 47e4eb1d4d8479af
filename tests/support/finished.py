"""Fixtures of finished campaigns: a tiny one, an adaptive one, and the digits one with every site and bit.

Each is run once for all processes of the tests, by the first that asks for it. What they need is imported only then: a
test that asks for none of them does not wait for torch.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.once import made_once

if TYPE_CHECKING:
    from testbed.campaign.spec.campaign import CampaignSpec
    from testbed.campaign.summary.record import Summary

ROOT = Path(__file__).parents[2]


def finished(folder: Path, values: dict[str, Any]) -> Path:
    """The folder of the campaign of this spec, run by the first process of the tests that asks for it."""
    from testbed.campaign.spec.campaign import parse_spec
    from tests.support.campaigns import run_here

    return made_once(folder, lambda path: run_here(parse_spec(values), path))


@pytest.fixture
def run_spec() -> Callable[..., Summary]:
    """Runs a campaign in this process: see `tests.support.campaigns.run_here`."""
    from tests.support.campaigns import run_here

    return run_here


@pytest.fixture
def tiny_values() -> dict[str, Any]:
    """The tiny campaign's spec, as a dictionary to change."""
    from tests.support import campaigns

    return campaigns.tiny_values()


@pytest.fixture(scope="session")
def tiny_spec() -> CampaignSpec:
    """The tiny campaign's spec."""
    from testbed.campaign.spec.campaign import parse_spec
    from tests.support import campaigns

    return parse_spec(campaigns.tiny_values())


@pytest.fixture(scope="session")
def tiny_run(shared_folder: Path, cache_dir: Path) -> Path:
    """The finished tiny campaign. Only to be read: see `tiny_copy`."""
    from tests.support import campaigns

    return finished(shared_folder / "runs" / "tiny", campaigns.tiny_values())


@pytest.fixture(scope="session")
def protected_campaign(shared_folder: Path, cache_dir: Path) -> Path:
    """A finished small campaign with a [protect] table; the protected model's own lies in `protected/campaign`. Only to be
    read."""
    from tests.support import protect_table

    return made_once(
        shared_folder / "runs" / "protect-table",
        lambda path: protect_table.run_table(protect_table.table_spec(), path),
    )


@pytest.fixture(scope="session")
def adaptive_run(tiny_spec: CampaignSpec, shared_folder: Path, cache_dir: Path) -> Path:
    """A finished adaptive campaign of activations, weights and random words, whose strata unite sites; with exposures,
    most of them of two tensors. Only to be read."""
    values = tiny_spec.identity() | {"name": "adaptive"}
    model = {"target": "model", "ops": ["flip"]}
    values["faults"] = [
        model | {"where": "activation", "sites": ["*.softmax", "*.mlp.*"], "bits": [2, 5, 8, 28, 30]},
        model | {"where": "activation", "sites": ["head"], "ops": ["random"]},
        model | {"where": "weight", "sites": ["*.fc1.weight", "head.bias"], "bits": [3, 30]},
    ]
    values["stop"] = {"margin": 0.08, "per": "all", "strata": "bit_class", "pilot": 40}
    values["exposure"] = {"sites": {"*": 1e-6, "*.softmax": 1e-2, "head.bias": 1e-2}, "per_bit": True}
    return finished(shared_folder / "runs" / "adaptive", values)


@pytest.fixture(scope="session")
def digits_run(shared_folder: Path, cache_dir: Path) -> Path:
    """campaigns/digits.toml with four images per tier. Only to be read."""
    values = tomllib.loads((ROOT / "campaigns" / "digits.toml").read_text())
    values["tiers"]["images"] = [4, 4, 4, 4]
    return finished(shared_folder / "runs" / "digits", values)


@pytest.fixture
def tiny_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A finished tiny campaign of one's own."""
    return Path(shutil.copytree(tiny_run, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def swept_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny campaign that tests sweep, and change in no other way."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("swept") / "tiny"))


@pytest.fixture
def gated(tiny_copy: Path) -> Path:
    """A tiny campaign that has its model and twins, and nothing of what follows."""
    from testbed.core.folder.runfolder import RunFolder

    folder = RunFolder.existing(tiny_copy)
    folder.redo("gates", list(folder.manifest["stages"]))
    folder.save()
    for name in ("faults.parquet", "results.parquet", "summary.json"):
        (tiny_copy / name).unlink()
    return tiny_copy
