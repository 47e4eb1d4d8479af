"""A running campaign on a terminal: a bar, outcomes so far, the widest interval."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from testbed.api.progress_text import lines, work_line

if TYPE_CHECKING:
    from testbed.campaign.results.snapshot import Snapshot

log = logging.getLogger(__name__)

_EVERY_S = 30.0  # where nobody sees a bar


@contextmanager
def watch_on_stderr() -> Iterator[Callable[[Snapshot], None]]:
    """Yields what a `testbed.campaign.results.progress.Progress` shows itself with: where stderr is no terminal, a line now and
    then."""
    if not sys.stderr.isatty():
        yield StageLines().show
        return
    from rich.console import Group
    from rich.live import Live

    from testbed.cli.common import console

    with Live(console=console(stderr=True), transient=True, auto_refresh=False) as live:

        def show(snapshot: Snapshot) -> None:
            live.update(Group(*lines(snapshot)), refresh=True)

        yield show


class StageLines:
    """Logs how far a stage is, every half a minute."""

    def __init__(self) -> None:
        self._stage, self._said = "", 0.0

    def show(self, snapshot: Snapshot) -> None:

        now = time.monotonic()
        if snapshot.stage != self._stage:  # its beginning is logged by whoever begins it
            self._stage, self._said = snapshot.stage, now
        elif now - self._said >= _EVERY_S:
            self._said = now
            log.info("%s: %s", snapshot.stage, work_line(snapshot, with_bar=False))
