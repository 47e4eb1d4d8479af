"""``--workers`` and ``--scheduler``: who runs the faults."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.options.numbers import Number, Workers

if TYPE_CHECKING:
    from testbed.campaign.work.worker_setup import WorkerSetup


def work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Passed on together, as ``worker_setup`` (a `testbed.campaign.work.worker_setup.WorkerSetup`)."""

    @functools.wraps(command)
    def with_setup(
        *arguments: Any,
        workers: int | None,
        scheduler: str | None,
        insecure: bool,
        recheck: float | None,
        **options: Any,
    ) -> Any:
        from testbed.campaign.work.worker_setup import RECHECK, WorkerSetup

        if scheduler is not None and workers is not None:
            raise click.UsageError("--workers counts processes of this machine; the cluster of --scheduler has its own")
        if scheduler is None and (insecure or recheck is not None):
            raise click.UsageError("--insecure and --recheck speak of the cluster of --scheduler, which is not named")
        share = RECHECK if recheck is None else recheck
        worker_setup = WorkerSetup(1 if workers is None else workers, scheduler, insecure, share)
        return command(*arguments, worker_setup=worker_setup, **options)

    workers = click.option(
        "--workers",
        type=Workers(),
        metavar="N",
        help="Processes of this machine that run faults; 1 unless said. 0: this one does, and dies with an engine that"
        " crashes.",
    )
    scheduler = click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Run faults on this Dask cluster instead: tls://host:8786. Dask sends pickles, which can run code: whoever"
        " joins a scheduler can run theirs on this machine. So without TLS only one on this machine is taken.",
    )
    insecure = click.option(
        "--insecure", is_flag=True, help="Take a --scheduler without TLS that other machines can reach, too."
    )
    recheck = click.option(
        "--recheck",
        type=Number(0, 1),
        metavar="SHARE",
        help="Share of each worker's units that another worker of the cluster, or this machine, runs again, besides its"
        " first: 0.02 unless said, 0 for none. A worker with other rows is refused; all its rows are done again.",
    )
    return workers(scheduler(insecure(recheck(with_setup))))


def words_of(worker_setup: WorkerSetup) -> list[str]:
    """The options that ask for it; none where nothing was said."""
    from testbed.campaign.work.worker_setup import RECHECK

    if worker_setup.scheduler is not None:
        insecure = ["--insecure"] if worker_setup.insecure else []
        recheck = [] if worker_setup.recheck == RECHECK else ["--recheck", f"{worker_setup.recheck:g}"]
        return ["--scheduler", worker_setup.scheduler, *insecure, *recheck]
    return [] if worker_setup.workers == 1 else ["--workers", str(worker_setup.workers)]
