"""The one console: whatever is printed on it, no text from elsewhere is taken for markup or obeyed by the terminal."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Span, Text

from testbed.core.words.text import visible, visible_lines


class PlainConsole(Console):
    """A string is one line, and means its characters: neither ``[bold]`` nor ``:smile:`` nor an escape sequence.

    Style is for `rich.text.Text`, which is one line, too; only a heading of a table, and `Lines`, may have line ends.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **(options | {"markup": False, "emoji": False}))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            renderable = _visible(renderable, keep="\n" if isinstance(renderable, Lines) else "")
        elif isinstance(renderable, Table):
            renderable = _with_headings(renderable)
        return super().render(renderable, options)


def plain_console(stderr: bool = False, width: int | None = None) -> PlainConsole:
    """A console on stdout, for results, or on stderr, for progress."""
    return PlainConsole(file=sys.stderr if stderr else sys.stdout, highlight=False, width=width)


class Lines(Text):
    """Text whose line ends are meant."""


def _visible(text: Text, keep: str) -> Text:
    """``text`` with what a terminal obeys as escapes, ``keep`` apart; its styles stay where they were."""
    shown = [character if character in keep else visible(character) for character in text.plain]
    if "".join(shown) == text.plain:
        return text
    places = [0, *accumulate(map(len, shown))]
    made = text.blank_copy("".join(shown))
    made.spans = [Span(places[span.start], places[span.end], span.style) for span in text.spans]
    return made


def _with_headings(table: Table) -> Table:
    """``table`` with headings that may have line ends where they are strings."""
    made = copy.copy(table)
    made.columns = [copy.copy(column) for column in table.columns]
    for column in made.columns:
        if isinstance(column.header, str):
            column.header = Lines(visible_lines(column.header))
    return made
