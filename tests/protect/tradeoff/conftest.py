"""Finished campaigns on the tiny model: plain, guarded and checked, as `testbed protect` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from testbed.bench.timing import Budget
from testbed.campaign.spec.campaign import parse_spec
from testbed.models.runs import DataSource, write_model_run
from testbed.protect.named import passes_named
from testbed.protect.run import ProtectRequest, protect_run
from testbed.protect.tradeoff.record import ProtectionTradeoff
from testbed.protect.tradeoff.weigh import WeighRequest, weigh_protection
from tests.support.campaigns import run_here
from tests.support.protected import spec_values, tiny_model

ACTIVATIONS = {
    "target": "model",
    "where": "activation",
    "ops": ["flip"],
    "sites": ["*", "!protect.*"],
    "bits": [20, 30],
}
WEIGHTS = {"target": "model", "where": "weight", "ops": ["flip"], "sites": ["*", "!protect.*"], "bits": [30]}
QUICK = WeighRequest(batches=(1, 4), timing=Budget(warm_up_s=0.0, seconds=0.05, runs=12))


class Campaigns(NamedTuple):
    """Run folders: of both kinds of faults, but for the checked model, which has none in weights."""

    plain: Path
    guarded: Path
    checked: Path


@pytest.fixture(scope="session")
def tradeoff_campaigns(tmp_path_factory: pytest.TempPathFactory) -> Campaigns:
    """Only to be read."""
    base = tmp_path_factory.mktemp("tradeoff")
    source = DataSource("digits")
    write_model_run(
        base / "vit", tiny_model(), stage="import", name="tiny", made_from={"model": "by hand"}, data=source
    )
    for name, passes in (("vit-guarded", ["range"]), ("vit-checked", ["checksum"])):
        request = ProtectRequest(passes_named(passes, {}), calibration_images=32, images=60)
        protect_run(base / "vit", base / name, request)
    both = [ACTIVATIONS | {"per_stratum": 6}, WEIGHTS | {"per_stratum": 3}]
    run(base / "vit", base / "plain", both)
    run(base / "vit-guarded", base / "guarded", both)
    run(base / "vit-checked", base / "checked", both[:1])
    return Campaigns(base / "plain", base / "guarded", base / "checked")


def run(model: Path, folder: Path, faults: list[dict[str, Any]], **changes: Any) -> Path:
    """A campaign on the model of a run folder."""
    run_here(parse_spec(spec_values(model, faults=faults, **changes)), folder)
    return folder


@pytest.fixture(scope="session")
def weighed(tradeoff_campaigns: Campaigns) -> ProtectionTradeoff:
    return weigh_protection(tradeoff_campaigns, QUICK)
