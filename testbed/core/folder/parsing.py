"""TOML and JSON of foreign hands: what can be neither held nor told again is refused where it is read.

Both parsers give up on deep nesting with a RecursionError, and on numbers of more than 4,300 digits with a bare
ValueError; hexadecimal numbers of any length pass, and can then not be printed.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from testbed.core.errors import StaleArtefact

DEEPEST = 64
"""Tables and lists within each other: nothing that the testbed reads has more than ten."""
LARGEST_TEXT = 1 << 26
"""Bytes of a text file that people write."""
_BETWEEN_DOTTED_KEYS = re.compile(r"[=,\[\]{}\n]")
_MOST_DOTS = 1000
_DEEP = f"its tables and lists are nested more than {DEEPEST} deep"
_LARGE = "it has a whole number of more than 64 bits"


def toml_value(text: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises ValueError, in one line to be told after the file's name, for what is not TOML, for nesting deeper than
    `DEEPEST` and for whole numbers of more than 64 bits.
    """
    if any(part.count(".") > _MOST_DOTS for part in _BETWEEN_DOTTED_KEYS.split(text)):
        raise ValueError(_DEEP)  # tomllib takes minutes for a key of 100,000 parts
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError as error:
        raise ValueError(_DEEP) from error
    except ValueError as error:  # of int(), for thousands of digits
        raise ValueError(_LARGE) from error
    check_plain(value)
    return value


def json_value(text: str | bytes) -> Any:
    """The value of a JSON file. Raises ValueError as `toml_value` does, and for NaN and infinities: JSON has none."""
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (json.JSONDecodeError, UnicodeDecodeError, _NotJson):
        raise
    except RecursionError as error:
        raise ValueError(_DEEP) from error
    except ValueError as error:
        raise ValueError(_LARGE) from error
    check_plain(value)
    return value


def read_json(path: Path, what: str, fix: str) -> Any:
    """The value in a run folder's file. what: that it should be ("a tiers file"); fix: what to do otherwise.

    Raises StaleArtefact, naming the file, for a missing or damaged one.
    """
    try:
        return json_value(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StaleArtefact(f"{path} is not {what} ({error}); {fix}") from error


def json_copy(value: Any) -> Any:
    """The value as its JSON file will give it back: tuples are lists. Raises TypeError for what JSON cannot hold."""
    return json.loads(json.dumps(value))


def text_of(path: Path) -> str:
    """A text file that people write. Raises ValueError where it is not UTF-8 or longer than `LARGEST_TEXT`; OSError."""
    with path.open("rb") as file:
        content = file.read(LARGEST_TEXT + 1)  # a device or a pipe may have no end
    if len(content) > LARGEST_TEXT:
        raise ValueError(f"it has more than {LARGEST_TEXT >> 20} MiB")
    return content.decode()


def check_plain(value: Any) -> None:
    """Raises ValueError for a parsed value that is nested too deep, or has a number too large."""
    left = [(value, 0)]
    while left:
        outer, depth = left.pop()
        if isinstance(outer, (dict, list)):
            if depth >= DEEPEST:
                raise ValueError(_DEEP)
            left.extend((inner, depth + 1) for inner in (outer.values() if isinstance(outer, dict) else outer))
        elif isinstance(outer, int) and not -(1 << 63) <= outer < 1 << 64:
            raise ValueError(_LARGE)


class _NotJson(ValueError):
    """Raised while parsing, with its own words."""


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(name: str) -> NoReturn:
    raise _NotJson(f"{name} is no number of JSON")
