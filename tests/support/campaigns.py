"""The tiny campaign of the tests, and a campaign run in this process."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.record import Summary
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.folder.runfolder import RunFolder

DIGITS = Path(__file__).parents[2] / "campaigns" / "digits.toml"
TINY = Path(__file__).with_name("tiny.toml")


def tiny_values() -> dict[str, Any]:
    """The tiny campaign's spec, as a dictionary to change."""
    return copy.deepcopy(tomllib.loads(TINY.read_text()))


def run_here(spec: CampaignSpec, folder: Path, redo: str | None = None) -> Summary:
    """Run the campaign in this process, from wherever it stands; return its summary."""
    return run_campaign(spec, folder, redo=redo, worker_setup=WorkerSetup(0))


def prepared(spec: CampaignSpec, path: Path) -> Preparation:
    """A new folder of this campaign whose stages are done up to the gates' inputs."""
    folder = RunFolder.claimed(path, "campaign", spec.name, spec.identity(), [])
    with folder.locked():
        folder.save()
        preparation = Preparation(spec, folder)
        preparation.run()
    return preparation
