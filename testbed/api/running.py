"""A campaign from its spec to its page, with the protected one where the spec asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.campaign.results.progress import Show
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.record import Summary
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.folder.places import COMPARISON
from testbed.core.protected import STAGE

if TYPE_CHECKING:
    from testbed.protect.campaigns.part import ProtectedPart
    from testbed.protect.paired.record import ProtectionComparison

_OF_PROTECTED = "protected."
"""Leads a stage of the protected campaign, where one is to be made again."""


@dataclass(frozen=True)
class FinishedCampaign:
    """The summary of the plain campaign, and what protection bought, where the spec has a [protect] table."""

    summary: Summary
    comparison: ProtectionComparison | None = None


def run_to_page(
    spec: CampaignSpec,
    path: Path,
    *,
    redo: str | None,
    fresh: bool,
    worker_setup: WorkerSetup,
    show: Show,
    cache: Path | None = None,
) -> FinishedCampaign:
    """Runs or resumes the campaign in ``path``, and what its [protect] table adds, and writes the page; for arguments and
    errors see `run_campaign`.

    redo: a stage of the campaign; with a [protect] table also "protect", "comparison", or one of the protected campaign,
    "protected.STAGE".
    """
    from testbed.campaign.pipeline import run_campaign
    from testbed.report.stage import report_stage

    worker_setup.check()
    part = None
    if spec.protect is not None:
        from testbed.protect.campaigns.part import ProtectedPart

        part = ProtectedPart(spec, path)
        part.check(fresh, redo == STAGE)
    later = None
    if part is not None and redo is not None and (redo in (STAGE, COMPARISON) or redo.startswith(_OF_PROTECTED)):
        redo, later = None, redo
    summary = run_campaign(spec, path, redo=redo, fresh=fresh, worker_setup=worker_setup, cache=cache, show=show)
    report_stage(path)
    if part is None:
        return FinishedCampaign(summary)
    compared = _run_protected(part, later, worker_setup, cache, show)
    report_stage(path)
    return FinishedCampaign(summary, compared)


def _run_protected(
    part: ProtectedPart, redo: str | None, worker_setup: WorkerSetup, cache: Path | None, show: Show
) -> ProtectionComparison:
    from testbed.campaign.pipeline import run_campaign
    from testbed.publish.protection import write_comparison
    from testbed.report.stage import report_stage

    stage = redo.removeprefix(_OF_PROTECTED) if redo is not None and redo.startswith(_OF_PROTECTED) else None
    with part.locked() as folder:
        part.protect(folder, redo=redo == STAGE)
        run_campaign(
            part.drawn_spec(folder), part.campaign, redo=stage, worker_setup=worker_setup, cache=cache, show=show
        )
        report_stage(part.campaign)
        if redo == COMPARISON:
            folder.redo(COMPARISON, [COMPARISON, "report"])
        return part.compare(folder, write_comparison)
