"""Warnings that are given once for a process: a command loads its data set several times."""

from __future__ import annotations

import logging
from collections.abc import Hashable

_GIVEN: set[Hashable] = set()


def warn_once(log: logging.Logger, text: str, key: Hashable = None) -> None:
    """Warn unless that was done before. key: what makes two warnings the same; None: their text."""
    key = (log.name, text if key is None else key)
    if key not in _GIVEN:
        _GIVEN.add(key)
        log.warning("%s", text)


def forget_warnings() -> None:
    """Forget which warnings were given, as in a new process."""
    _GIVEN.clear()
