"""Text from elsewhere (names of files, classes, tensors, runs; messages of libraries), made fit to be shown."""

from __future__ import annotations

import unicodedata

# What a terminal obeys instead of showing, or what changes how its neighbours are shown: control characters (escape
# sequences begin with one), formats (overrides of the writing direction, zero width), line ends, halves of a character.
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """``text`` on one line, each character that is no mark written as its escape: a terminal shows it and obeys none.

    Printable text of any script is returned as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def drawn(text: str) -> str:
    """``text`` for Matplotlib: as `visible` makes it, and no part of it is taken for a formula."""
    return visible(text).replace("$", r"\$")


def visible_lines(text: str) -> str:
    """``text`` with each line as `visible` makes it: for a page whose own line ends mean nothing."""
    return "\n".join(map(visible, text.split("\n")))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _OBEYED:
        return character
    return character.encode("unicode_escape").decode("ascii")


def percent_interval(rate: float, low: float, high: float) -> str:
    """A share and its interval, in percent: "0.89 [0.76, 1.04]"."""
    return f"{100 * rate:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
