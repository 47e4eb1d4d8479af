"""Two finished campaigns on the tiny model: plain, and with a clip and two checks written by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import JsonValue

from testbed.campaign.spec.campaign import parse_spec
from testbed.core.folder.files import sha256_bytes
from testbed.data import load
from testbed.models.runs import DataSource, write_model_run
from tests.support.campaigns import run_here
from tests.support.protected import (
    CHECKED,
    CLIPPED,
    bounds_of,
    plain_files,
    protect,
    spec_values,
    tiny_model,
)

TIER: dict[str, JsonValue] = {"low": 0, "high": 1, "images": 60, "alarms": 1, "bound_95": 0.08, "bound_99": 0.11}
WRONG: dict[str, JsonValue] = TIER | {"low": None, "high": None, "images": 30, "alarms": 0}


class Campaigns(NamedTuple):
    """Run folders."""

    plain: Path
    protected: Path


@pytest.fixture(scope="session")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> Campaigns:
    """Only to be read."""
    base, model = tmp_path_factory.mktemp("pairs"), tiny_model()
    plain = plain_files(model, base)["fp32"]
    checks = bounds_of(plain, CHECKED, load("digits").test.batch(slice(None)))
    source = DataSource("digits")
    write_model_run(base / "vit", model, stage="import", name="tiny", made_from={"model": "by hand"}, data=source)
    file = protect(plain, clips={CLIPPED: 8.0}, checks=checks)
    unseen: dict[str, JsonValue] = {"engine": "ort-cpu", "n": 90, "false_alarms": 1, "alarms_by_tier": [TIER, WRONG]}
    write_model_run(
        base / "vit-protected",
        model,
        stage="protect",
        name="tiny-protected",
        made_from={"model": "by hand"},
        data=source,
        facts={"files": [{"sha256": sha256_bytes(file), "ensured": {"unchanged": [unseen]}}]},
        protected={"fp32": file},
    )
    values = spec_values(base / "vit", faults=sections())
    run_here(parse_spec(values), base / "plain")
    values = copy.deepcopy(values) | {"model": {"run": str(base / "vit-protected")}}
    of_checks = {"target": "model", "where": "activation", "ops": ["flip"], "sites": ["protect.*"], "bits": [30]}
    values["faults"].append(of_checks)
    run_here(parse_spec(values), base / "protected")
    return Campaigns(base / "plain", base / "protected")


def sections() -> list[dict[str, Any]]:
    """Bit flips in activations and weights, and in several neighbours at once."""
    activations = {"target": "model", "where": "activation", "ops": ["flip"]}
    return [
        activations | {"sites": ["*.mlp.*", "head"], "bits": [12, 30], "per_stratum": 10},
        activations | {"sites": ["*.mlp.fc2"], "bits": [30], "pattern": "burst", "length": 3, "per_stratum": 6},
        {
            "target": "model",
            "where": "weight",
            "ops": ["flip"],
            "sites": ["*.fc1.weight", "head.bias"],
            "bits": [3, 30],
        },
    ]
