"""What somebody may have meant who wrote a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LIKE = 0.6  # difflib's own usual bound
_BEGINNING = 3  # letters of a name that say which it may be


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like ``word``, whatever the case of its letters, or one that it begins; None where none is."""
    folded: dict[str, str] = {}
    for name in known:
        folded.setdefault(name.casefold(), name)
    matches = difflib.get_close_matches(word.casefold(), folded, 1, _LIKE)
    if matches or len(word) < _BEGINNING:
        return folded[matches[0]] if matches else None
    return next((name for name in folded.values() if name.casefold().startswith(word.casefold())), None)


def meant(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'seed'?", to be put behind a complaint; "" where nothing known is like the word."""
    near = nearest(word, known)
    return "" if near is None else f"; did you mean {near!r}?"


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """ "unknown engine 'ort-cup'; did you mean 'ort-cpu'? Known: ort-cpu, torch"."""
    names = list(known)
    near = meant(word, names)
    return f"unknown {what} {word!r}{near or ';'} {'Known' if near else 'known'}: {', '.join(names)}"
