"""What every command prints for people, at 60 to 200 columns: no number is lost, no line is longer than the terminal."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.console import RenderableType

from testbed.cli import common
from testbed.cli.tables.prose import stacked
from testbed.core.words.console import PlainConsole

WIDTHS = (60, 80, 100, 200)
NUMBER = re.compile(r"[-+]?\d(?:[\d,.]*\d)?(?:e[-+]?\d+)?")
_emit = common.emit


def shown(what: RenderableType | list[str], width: int) -> list[str]:
    """Its lines on a terminal of that many columns."""
    file = io.StringIO()
    screen = PlainConsole(file=file, width=width, highlight=False)
    screen.print(stacked(what if isinstance(what, list) else [what]), crop=False)
    return file.getvalue().splitlines()


def numbers(lines: list[str]) -> Counter[str]:
    return Counter(number for line in lines for number in NUMBER.findall(line))


def check_every_width(what: RenderableType | list[str]) -> None:
    """Raises AssertionError. A word longer than the terminal is wide, such as a path, may have a line to itself."""
    wanted = numbers(shown(what, 10_000))
    for width in WIDTHS:
        lines = shown(what, width)
        long = [line for line in lines if len(line) > width and len(line.split()) > 1]
        assert not long, (width, long)
        lost = wanted - numbers(lines)
        assert not lost, (width, dict(lost))


def _checked_emit(value: Any, as_json: bool, text: Callable[[], RenderableType | list[str]]) -> None:
    told = text()
    check_every_width(told)
    _emit(value, as_json, lambda: told)


def check_all_commands() -> None:
    """From now on, in this process, whatever a command prints is held to every width, with ``--json`` too."""
    for name, module in list(sys.modules.items()):
        if name.startswith("testbed.cli") and getattr(module, "emit", None) is _emit:
            module.emit = _checked_emit  # type: ignore[attr-defined]
