"""Progress and logs, on stderr; the bar only where somebody watches."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from testbed.cli.common import console, say
from testbed.core.words.text import visible

_EVERY_S = 30.0  # where nobody sees a bar


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
        warnings.showwarning = lambda *arguments, **more: None
    root = logging.getLogger()
    if not root.handlers:  # else the logging module prints them itself
        root.addHandler(logging.NullHandler())


class _ProgressLines:
    """Tells on stderr how much is done, every half a minute: nothing of what takes less."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._done = total, what, 0
        self._begun = self._said = time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._said >= _EVERY_S:
            self._said = now
            rate = self._done / (now - self._begun)
            say(f"{self._done:,} of {self._total:,} {self._what}, {rate:,.3g}/s")


@contextmanager
def progress_on_stderr(total: int, what: str = "faults") -> Iterator[Callable[[int], None]]:
    """A bar of ``what`` with rate and time to go; yields ``advance``. Where stderr is no terminal, a line now and then."""
    if not sys.stderr.isatty():
        yield _ProgressLines(total, what).advance
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(done: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=done, rate=f"{speed:,.0f}/s" if speed else "")

        yield advance
