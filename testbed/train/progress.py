"""A progress bar on stderr: rate and time left. Nothing at all where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AdvanceBar = Callable[[int, str], None]


@contextmanager
def progress_bar(title: str, total: int, done: int, wanted: bool) -> Iterator[AdvanceBar]:
    """Counts images. The function inside takes the number of images done and a text to show beside the bar."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda images, text: None
        return
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    from testbed.core.words.console import plain_console

    class SpeedColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=8),  # all columns together fit 80: rich cuts figures to make room
        SpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("{task.fields[text]}", markup=False),
    ]
    with Progress(*columns, console=plain_console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, text="")

        def advance(images: int, text: str) -> None:
            bar.update(task, advance=images, text=text)

        yield advance
