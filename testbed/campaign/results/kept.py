"""What a campaign that was interrupted keeps, in words."""

from __future__ import annotations

from pathlib import Path

from testbed.campaign.files import STATUS
from testbed.campaign.results.status_file import read_status
from testbed.core.errors import TestbedError
from testbed.core.folder.places import COMPARISON, PROTECTED_CAMPAIGN
from testbed.core.folder.runfolder import RunFolder
from testbed.core.protected import STAGE


def describe_kept(path: Path) -> str:
    """Words for whoever pressed Ctrl-C: what need not be done again, and what must."""
    try:
        stages = list(RunFolder(path).manifest.get("stages", {}))
    except (TestbedError, OSError):
        stages = []
    if STAGE in stages and (path / PROTECTED_CAMPAIGN).is_dir() and COMPARISON not in stages:
        return f"the plain campaign is finished; of the protected one {describe_kept(path / PROTECTED_CAMPAIGN)}"
    if "execute" in stages:
        return "all rows are kept"
    if "plan" in stages:
        return "every finished batch is kept"
    kept = f"kept: {', '.join(stages)}" if stages else "no stage was done yet"
    begun = _begun(path)
    return f"{begun} begins anew; {kept}" if begun and begun.partition(" ")[0] not in stages else kept


def _begun(path: Path) -> str:
    """The stage that was counting its work, and how far it was: "golden (3,200 of 10,000 images)"."""
    snapshot = read_status(path / STATUS)
    if (steps := snapshot.steps) is None or snapshot.stage is None:
        return ""
    return f"{snapshot.stage} ({steps.done:,} of {steps.total:,} {steps.what})"
