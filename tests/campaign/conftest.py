"""Finished campaigns for the tests that look at rows: a tiny one, and the digits one with every site and bit."""

from __future__ import annotations

import copy
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec import CampaignSpec, parse_spec
from testbed.campaign.workforce import Workforce
from testbed.core.runfolder import RunFolder

ROOT = Path(__file__).parents[2]
sys.path.append(str(Path(__file__).parent))  # modules that only tests use, also in the processes that they start
TINY = Path(__file__).with_name("tiny.toml")


def run(spec: CampaignSpec, folder: Path, redo: str | None = None) -> dict[str, Any]:
    """The campaign from wherever it stands to its summary."""
    return run_campaign(spec, folder, redo=redo, workforce=Workforce(0))


@pytest.fixture
def run_spec() -> Callable[..., dict[str, Any]]:
    return run


@pytest.fixture
def tiny_values() -> dict[str, Any]:
    """The tiny campaign, as a dictionary to change."""
    return copy.deepcopy(tomllib.loads(TINY.read_text()))


@pytest.fixture(scope="session")
def tiny_spec() -> CampaignSpec:
    return parse_spec(tomllib.loads(TINY.read_text()))


@pytest.fixture(scope="session")
def tiny_run(tiny_spec: CampaignSpec, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """The finished tiny campaign. Only to be read: see `tiny_copy`."""
    folder = tmp_path_factory.getbasetemp() / "runs" / "tiny"
    run(tiny_spec, folder)  # at once where it is finished already: tests/cli asks for it too
    return folder


@pytest.fixture(scope="session")
def adaptive_run(tiny_spec: CampaignSpec, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
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
    folder = tmp_path_factory.mktemp("runs") / "adaptive"
    run(parse_spec(values), folder)
    return folder


@pytest.fixture
def tiny_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A finished tiny campaign of one's own."""
    return Path(shutil.copytree(tiny_run, tmp_path / "tiny"))


@pytest.fixture
def gated(tiny_copy: Path) -> Path:
    """A tiny campaign that has its model and twins, and nothing of what follows."""
    folder = RunFolder.existing(tiny_copy)
    folder.redo("gates", list(folder.manifest["stages"]))
    folder.save()
    for name in ("faults.parquet", "results.parquet", "summary.json"):
        (tiny_copy / name).unlink()
    return tiny_copy


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """campaigns/digits.toml with four images per tier."""
    values = tomllib.loads((ROOT / "campaigns" / "digits.toml").read_text())
    values["tiers"]["images"] = [4, 4, 4, 4]
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run(parse_spec(values), folder)
    return folder
