"""``--workers`` and ``--scheduler``: who runs the faults."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from testbed.campaign.workforce import Workforce


def work_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Passed on together, as ``workforce`` (a `testbed.campaign.workforce.Workforce`)."""

    @functools.wraps(command)
    def with_workforce(*arguments: Any, workers: int | None, scheduler: str | None, **options: Any) -> Any:
        from testbed.campaign.workforce import Workforce

        if scheduler is not None and workers is not None:
            raise click.UsageError("--workers counts processes of this machine; the cluster of --scheduler has its own")
        workforce = Workforce(1 if workers is None else workers, scheduler)
        return command(*arguments, workforce=workforce, **options)

    workers = click.option(
        "--workers",
        type=click.IntRange(0),
        metavar="N",
        help="Processes of this machine that run faults; 1 unless said. 0: this one does, and dies with an engine that"
        " crashes.",
    )
    scheduler = click.option(
        "--scheduler", metavar="ADDRESS", help="Run faults on this Dask cluster instead: tcp://host:8786."
    )
    return workers(scheduler(with_workforce))


def words_of(workforce: Workforce) -> list[str]:
    """The options that ask for it; none where nothing was said."""
    if workforce.scheduler is not None:
        return ["--scheduler", workforce.scheduler]
    return [] if workforce.workers == 1 else ["--workers", str(workforce.workers)]
