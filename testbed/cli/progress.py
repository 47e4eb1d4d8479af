"""Progress and logs, on stderr; the bar only where somebody watches."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from testbed.core.text import visible


class _OneLine(logging.Formatter):
    """The message, on one line and with nothing in it that a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(record.getMessage())


def log_to_stderr(level: int = logging.INFO) -> None:
    """One plain line per stage."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("testbed")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def quiet_libraries() -> None:
    """Neither warnings nor logs of libraries reach the terminal: what a user must know, we say."""
    if not sys.warnoptions:
        warnings.showwarning = lambda *told, **more: None
    root = logging.getLogger()
    if not root.handlers:  # else the logging module prints them itself
        root.addHandler(logging.NullHandler())


@contextmanager
def progress_on_stderr(total: int, what: str = "faults") -> Iterator[Callable[[int], None]]:
    """A bar of ``what`` with rate and time to go; yields ``advance``. Silent when stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from testbed.cli.common import console

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(done: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=done, rate=f"{speed:,.0f}/s" if speed else "")

        yield advance
