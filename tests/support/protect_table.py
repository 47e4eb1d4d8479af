"""A small campaign with a [protect] table, and its run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.api.running import FinishedCampaign, run_to_page
from testbed.campaign.results.snapshot import Snapshot
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.work.worker_setup import WorkerSetup
from tests.support.campaigns import tiny_values

CHECKED = {"with": ["range", "checksum"], "calibration_images": 32, "images": 100}


def table_values(protect: dict[str, Any] | None = CHECKED, **changes: Any) -> dict[str, Any]:
    """The tiny campaign, of few faults, with a [protect] table or (None) without."""
    values = tiny_values()
    values["engine"]["unit"] = 8
    values["faults"] = [
        {"target": "model", "where": "activation", "sites": ["*.mlp.fc1", "head"], "bits": [12, 30], "per_stratum": 4},
        {"target": "model", "where": "weight", "sites": ["head.bias"], "bits": [30], "per_stratum": 2},
    ]
    return values | ({} if protect is None else {"protect": protect}) | changes


def table_spec(protect: dict[str, Any] | None = CHECKED, **changes: Any) -> CampaignSpec:
    """`table_values` as a spec."""
    return parse_spec(table_values(protect, **changes))


def run_table(
    spec: CampaignSpec,
    folder: Path,
    *,
    redo: str | None = None,
    fresh: bool = False,
    workers: int = 0,
    show: Callable[[Snapshot], None] = lambda snapshot: None,
) -> FinishedCampaign:
    """Run it, from wherever it stands."""
    return run_to_page(spec, folder, redo=redo, fresh=fresh, worker_setup=WorkerSetup(workers), show=show)
