"""A real, finished campaign for the tests that look at rows: the digits model, every site, every bit, few images."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec import CampaignSpec, parse_spec

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def no_progress(total: int) -> Iterator[Callable[[int], None]]:
    yield lambda faults: None


def digits_values() -> dict[str, Any]:
    """The ready-made digits campaign, as a dictionary to change."""
    return tomllib.loads((ROOT / "campaigns" / "digits.toml").read_text())


def tiny_values(seed: int = 42) -> dict[str, Any]:
    """A campaign of seconds: few bits, few sites, an untrained model that is judged all the same."""
    values = digits_values()
    values["name"], values["seed"] = "tiny", seed
    values["model"]["training"] = {"epochs": 4}
    values["tiers"] = {"edges": [1.0], "images": [6]}
    values["gates"] |= {"test_accuracy": 0.0, "zero_fault_rows": 64}
    values["engine"]["batch"] = 16
    bits = [0, 12, 30, 31]
    sites = ["block.*.attn.softmax", "block.1.mlp.*", "head"]
    values["faults"] = [
        {"target": "model", "where": "activation", "sites": sites, "bits": bits, "per_stratum": 40},
        {"target": "model", "where": "weight", "sites": ["*.fc1.weight"], "bits": bits, "per_stratum": 3},
        {"target": "attention", "where": "activation", "bits": bits, "per_stratum": 2},
    ]
    return values


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """digits.toml with four images per tier."""
    values = digits_values()
    values["tiers"]["images"] = [4, 4, 4, 4]
    spec: CampaignSpec = parse_spec(values)
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run_campaign(spec, folder, redo=None, progress=no_progress)
    return folder
