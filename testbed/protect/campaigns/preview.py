"""What a campaign with a [protect] table would do: its own faults, and those of the protected model. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.preview.foreseen import check_disk
from testbed.campaign.preview.plan import Preview, Wanted
from testbed.campaign.preview.records import DryRunReport
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.spec.stop import StopDimension
from testbed.core.folder.runfolder import RunFolder
from testbed.core.protected import STAGE
from testbed.protect.campaigns.part import ProtectedPart

_NOT_CHOSEN = "which places protection takes under its budget: told are sites and time with all of them"


@dataclass(frozen=True)
class DryRuns:
    """The dry run of a campaign, and that of its protected model; None without a [protect] table."""

    plain: DryRunReport
    protected: DryRunReport | None = None

    def to_json(self) -> dict[str, Any]:
        """The plain campaign's record, with the other in it."""
        plain = self.plain.to_json()
        return plain if self.protected is None else {**plain, "protected": self.protected.to_json()}


def dry_run_campaigns(spec: CampaignSpec, folder: Path, *, fresh: bool = False) -> DryRuns:
    """Both plans in numbers; raises as `dry_run_plan`, and for what cannot be protected.

    The protected model's sites and time come from the passes on an untrained model, unless it is there already.
    """
    part = None if spec.protect is None else ProtectedPart(spec, folder)  # first: what it refuses is told at once
    plain = dry_run_plan(spec, folder, fresh=fresh)
    if part is None or spec.protect is None:
        return DryRuns(plain)
    held = RunFolder(folder) if folder.is_dir() and not fresh else None
    if held is not None and STAGE in held.stages:
        part.check()
        return DryRuns(plain, dry_run_plan(part.spec))
    sketch = part.sketched(held if held is not None and held.manifest else None)
    protected = dry_run_plan(part.spec, subject=sketch)
    check_disk(folder, plain.bytes + protected.bytes)
    if spec.protect.budget is not None:
        protected = replace(protected, unchecked=[*protected.unchecked, _NOT_CHOSEN])
    return DryRuns(plain, protected)


def preview_protected(
    spec: CampaignSpec,
    wanted: Wanted,
    by: Sequence[StopDimension] | None = None,
    seconds_per_row: float | None = None,
    measured: bool = False,
) -> Preview | None:
    """The strata of the protected campaign; None without a [protect] table."""
    if spec.protect is None:
        return None
    part = ProtectedPart(spec, Path("runs") / spec.name)
    return Preview(part.spec, wanted, by, seconds_per_row, measured, part.sketched())
