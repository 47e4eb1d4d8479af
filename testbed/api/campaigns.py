"""Campaigns from Python: plan one, run it, open what came out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.api.plans import CampaignPlan, CampaignStatus, DryRun
from testbed.api.progress import ProgressCallback, shown
from testbed.api.specs import load_spec
from testbed.campaign.run import Run
from testbed.campaign.spec.campaign import CampaignSpec

SpecSource = str | os.PathLike[str] | Mapping[str, Any] | CampaignSpec
"""What `load_spec` takes."""


def plan(
    spec: SpecSource,
    *,
    by: str | None = None,
    margin: float | None = None,
    relative: bool = False,
    rate: float = 0.5,
    confidence: float | None = None,
    seconds_per_row: float | None = None,
    measure: bool = False,
) -> CampaignPlan:
    """Say what a campaign would sample from and how many faults it would run. Nothing is run or written.

    Args:
        spec: A spec, or whatever `load_spec` takes.
        by: Dimensions that strata are put together by: `"block"`, `"site x bit_class"`, `"all"`. Default: the strata that
            are sampled.
        margin: Half the width of every interval, for Leveugle's sample size. Default: as in `[stop]`, or 0.01.
        relative: Whether the margin is a share of `rate`.
        rate: Expected rate; 0.5 is the worst case.
        confidence: Of the intervals. Default: the campaign's.
        seconds_per_row: What a row costs, for the estimate of time.
        measure: Whether to time the engine here and now instead.

    Returns:
        The plan: `parts` as a data frame and `totals`. A notebook shows it as a table.

    Raises:
        UsageError: For anything the spec names that does not exist, and for margins no sample size belongs to.

    Example:
        ```py
        plan = testbed.plan("digits", by="block", margin=0.02)
        print(plan.totals.drawn.faults, plan.parts)
        ```
    """
    from testbed.campaign.preview import plan as preview
    from testbed.protect.campaigns.preview import preview_protected

    loaded = load_spec(spec)
    wanted = preview.wanted_of(loaded, margin, confidence, rate, relative)
    dimensions = preview.asked_dimensions(by)
    planned = preview.Preview(loaded, wanted, dimensions, seconds_per_row, measure)
    parts = list(planned.parts())
    protected = preview_protected(loaded, wanted, dimensions, seconds_per_row, measure)
    return CampaignPlan(planned.head(), parts, planned.totals(), None if protected is None else protected.all_totals())


def dry_run(spec: SpecSource, folder: str | os.PathLike[str] | None = None, *, fresh: bool = False) -> DryRun:
    """Say how many faults a campaign would run, how wide its intervals would be and how long it would take.

    Refuses what `run` would refuse, as far as it is known. Nothing is written.

    Args:
        spec: A spec, or whatever `load_spec` takes.
        folder: Where the campaign would be run. Default: `runs/NAME`.
        fresh: Whether whatever campaign the folder holds would be given up.

    Returns:
        Faults, rows, seconds and bytes, per fault section and in all, with warnings.

    Raises:
        UsageError: For whatever the run would refuse, and for an adaptive campaign: see `plan`.

    Example:
        ```py
        print(testbed.dry_run("digits").sections[["where", "faults", "estimated_seconds"]])
        ```
    """
    from testbed.protect.campaigns.preview import dry_run_campaigns

    loaded = load_spec(spec)
    path = Path("runs") / loaded.name if folder is None else Path(folder)
    dry = dry_run_campaigns(loaded, path, fresh=fresh)
    return DryRun(dry.plain, dry.protected)


def run(
    spec: SpecSource,
    folder: str | os.PathLike[str] | None = None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    insecure: bool = False,
    recheck: float | None = None,
    redo: str | None = None,
    fresh: bool = False,
    cache: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Run:
    """Run a campaign, or go on with it where it stopped, and write its page.

    With a `[protect]` table the model is protected then, and the same faults are run on that: `compare_protected(folder)` tells
    what it bought.

    Args:
        spec: A spec, or whatever `load_spec` takes.
        folder: The run folder. Default: `runs/NAME`.
        workers: Isolated processes of this machine that run faults. 0: this process runs them, and dies with an engine
            that crashes.
        scheduler: Address of a Dask cluster that runs the faults instead, such as `"tls://host:8786"`.
        insecure: Whether a scheduler without TLS that other machines can reach is taken, too.
        recheck: Share of each cluster worker's units that is run again elsewhere. Default: 0.02.
        redo: A stage to forget, with all later ones.
        fresh: Whether to give up whatever campaign the folder holds, with its files and rows.
        cache: Folder of exports, twins, tuned batches and passed gates, which campaigns of the same model on the same
            engine take from each other. Default: `$TESTBED_CACHE`; without either none of them is taken or kept.
        progress: Called about once a second with a `Snapshot`; `ProgressBar()` is a ready-made one.

    Returns:
        The finished run, open.

    Raises:
        UsageError: For a wrong spec, and for a folder that holds another campaign.
        StaleArtefact: For files of the folder that were changed.
        GateFailed: For a bound that does not hold.

    Example:
        ```py
        with testbed.run("digits", progress=testbed.ProgressBar()) as run:
            print(run.rates(by="block"))
        ```
    """
    from testbed.api.running import run_to_page
    from testbed.campaign.work.worker_setup import RECHECK, WorkerSetup

    loaded = load_spec(spec)
    path = Path("runs") / loaded.name if folder is None else Path(folder)
    kept = None if cache is None else Path(cache)
    worker_setup = WorkerSetup(workers, scheduler, insecure, RECHECK if recheck is None else recheck)
    with shown(progress) as show:
        run_to_page(loaded, path, redo=redo, fresh=fresh, worker_setup=worker_setup, show=show, cache=kept)
    return Run(path)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open the campaign in a run folder: its rows, rates and sites, and its engines for faults of one's own.

    Args:
        folder: The run folder.

    Returns:
        The run. Use it as a context manager, or call `close`: it holds engines.

    Raises:
        UsageError: For a folder without a campaign.
        StaleArtefact: For a campaign that is not prepared, or whose files were changed.

    Example:
        ```py
        with testbed.open_run("runs/digits") as run:
            print(run.rates(by=["block", "bit_class"]))
        ```
    """
    return Run(os.fspath(folder))


def read_status(folder: str | os.PathLike[str]) -> CampaignStatus:
    """Say how far the campaign in a folder is, while it runs or afterwards. Nothing is changed.

    Args:
        folder: The run folder.

    Returns:
        Its state, stages, faults done and planned, rate, time to go and outcomes so far.

    Raises:
        UsageError: For a folder without a campaign.

    Example:
        ```py
        status = testbed.read_status("runs/digits")
        print(status.state, status.faults_done, "of", status.faults)
        ```
    """
    from testbed.campaign.results.status import campaign_status

    return CampaignStatus(campaign_status(Path(folder)))
