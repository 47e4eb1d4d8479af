"""JSON as it is written here, read with one kind of error: what is damaged is never more than a ValueError."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from testbed.core.errors import StaleArtefact

_MAX_DEPTH = 64
_TOO_DEEP = "it nests too deeply"


def parse_json(content: bytes | str) -> Any:
    """The value. Raises ValueError for anything that is not JSON in UTF-8, nests too deeply, or has a number that is
    none (NaN, infinities) or of thousands of digits."""
    try:
        value = json.loads(content, parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value)
    return value


def read_json(path: Path, what: str, fix: str) -> Any:
    """The value in a run folder's file. what: that it should be ("a tiers file"); fix: what to do otherwise.

    Raises StaleArtefact, naming the file, for a missing or damaged one.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StaleArtefact(f"{path} is not {what} ({error}); {fix}") from error


def _check_depth(value: Any) -> None:
    """Not by recursion: that is what deep values break."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        inner = [part for part in level if isinstance(part, (dict, list))]
        level = [item for part in inner for item in (part.values() if isinstance(part, dict) else part)]


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refused(text)


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number")
