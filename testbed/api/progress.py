"""Progress of long work: a plain callable is told about it, and a bar for the terminal is ready-made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from testbed.api.progress_text import lines
from testbed.campaign.results.snapshot import Snapshot, Steps
from testbed.core.closing import Closing

if TYPE_CHECKING:
    from rich.live import Live

ProgressCallback = Callable[[Snapshot], None]
"""Called about once a second with a `Snapshot`: stage, faults done and planned, rate, time to go, outcomes so far."""

Advance = Callable[[int], None]
_EVERY_S = 1.0


class ProgressBar(Closing):
    """A bar on stderr, with outcomes so far and the widest interval. Pass it as `progress=`.

    Where stderr is no terminal it shows nothing. It may be used once or many times, and as a context manager.

    Example:
        ```py
        run = testbed.run("digits", progress=testbed.ProgressBar())
        ```
    """

    def __init__(self) -> None:
        self._live: Live | None = None

    def __call__(self, snapshot: Snapshot) -> None:
        """Show this snapshot."""
        if not sys.stderr.isatty():
            return
        from rich.console import Group
        from rich.live import Live

        from testbed.core.words.console import plain_console

        if self._live is None:
            self._live = Live(console=plain_console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(Group(*lines(snapshot)), refresh=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


@contextmanager
def shown(progress: ProgressCallback | None) -> Iterator[ProgressCallback]:
    """Yield what is told of progress; a bar is taken away at the end."""
    if isinstance(progress, ProgressBar):
        with progress:
            yield progress
    else:
        yield progress or (lambda snapshot: None)


class StepCounter(Protocol):
    """Makes the counter of so many steps, for the length of a block."""

    def __call__(self, total: int, what: str = ...) -> AbstractContextManager[Advance]: ...


def steps_of(progress: ProgressCallback | None, stage: str) -> StepCounter:
    """Make a counter of steps whose snapshots go to ``progress``."""

    @contextmanager
    def counted(total: int, what: str = "faults") -> Iterator[Advance]:
        with shown(progress) as show:
            begun = shown_at = time.monotonic()
            done = 0

            def advance(more: int) -> None:
                nonlocal done, shown_at
                done += more
                now = time.monotonic()
                if now - shown_at >= _EVERY_S or done >= total:
                    shown_at = now
                    rate = round(done / (now - begun), 3) if now > begun else None
                    eta = round((total - done) / rate, 1) if rate else None
                    show(_snapshot(stage, Steps(what, total, done, rate, eta)))

            show(_snapshot(stage, Steps(what, total, 0, None, None)))
            yield advance

    return counted


def _snapshot(stage: str, steps: Steps) -> Snapshot:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Snapshot(stage, 0, 0, 0, 0, None, steps.eta_s, {}, None, 0, now, steps)
