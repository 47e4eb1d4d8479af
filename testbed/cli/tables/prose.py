"""Sentences and facts on a terminal, broken between words but never inside a number, an interval or a path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.style import StyleType
from rich.text import Text

from testbed.core.words.text import visible

_NUMBER = r"[-+]?[\d.,]*\d(?:e[-+]?\d+)?"
_TOKEN = re.compile(rf"\s*(?:[\[(]{_NUMBER}, {_NUMBER}[\])]|\S)+")


@dataclass(frozen=True)
class Prose:
    """A line, or several where the terminal is narrow: those after the first are indented by ``indent``.

    What has no blank in it, and an interval, stays whole even where it is longer than the terminal is wide, so that a
    path can be copied; nothing in it is obeyed by a terminal. ``bold``: how many of its first characters are set so.
    """

    text: str
    indent: int = 0
    style: StyleType = ""
    bold: int = 0

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(options.max_width, max(1, cell_len(self.text))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, line in enumerate(broken(visible(self.text), options.max_width, self.indent)):
            text = Text(line, style=self.style, no_wrap=True, overflow="ignore")
            if number == 0 and self.bold:
                text.stylize("bold", 0, self.bold)
            yield text


def broken(text: str, width: int, indent: int = 0) -> list[str]:
    """The lines that the text takes in a width of so many characters."""
    lines: list[str] = []
    line = ""
    for token in tokens(text):
        if line.strip() and cell_len(line + token) > width:
            lines.append(line)
            line = " " * indent + token.lstrip()
        else:
            line += token
    return [*lines, line]


def tokens(text: str) -> list[str]:
    """Words, numbers and intervals with the blanks before them: what stays whole."""
    return _TOKEN.findall(text)


def stacked(parts: Iterable[RenderableType]) -> Group:
    """Parts below one another; a string among them is a line of `Prose`, never markup."""
    return Group(*(Prose(part, _indent(part)) if isinstance(part, str) else part for part in parts))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
