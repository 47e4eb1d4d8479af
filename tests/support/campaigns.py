"""The tiny campaign of the tests, and a campaign run in this process."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.record import Summary
from testbed.campaign.work.worker_setup import WorkerSetup

TINY = Path(__file__).with_name("tiny.toml")


def tiny_values() -> dict[str, Any]:
    """The tiny campaign's spec, as a dictionary to change."""
    return copy.deepcopy(tomllib.loads(TINY.read_text()))


def run_here(spec: CampaignSpec, folder: Path, redo: str | None = None) -> Summary:
    """Run the campaign in this process, from wherever it stands; return its summary."""
    return run_campaign(spec, folder, redo=redo, worker_setup=WorkerSetup(0))
