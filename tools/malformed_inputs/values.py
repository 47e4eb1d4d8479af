"""Absurd values, and where in a JSON-like tree to put them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

HOSTILE = "[/b][red]\x1b[31m\x07\u202ename\r\n<script>alert(1)</script>"
DELETED = object()
DEEP = "\0deep"  # stands for nesting that no serializer may be asked to write
LONG = "\0long"  # and for an integer that Python's own would refuse

ABSURD: tuple[Any, ...] = (
    *(DELETED, None, True, -1, 0, 1, 2**31, 2**63, 2**70, 10**9, 10**30, -(2**63)),
    *(1e308, -1e-320, 1e-300, 1 - 1e-16, float("nan"), float("inf"), -float("inf")),
    *("", "x", HOSTILE, "../../../../etc/passwd", "/dev/zero", "a" * 10_000, "\udcff", DEEP, LONG),
    *([], {}, [None], [[]], {"": ""}, [10**9] * 3, {"x": {"y": [1, 2, {"z": None}]}}),
)

Where = tuple[str | int, ...]


def places(tree: Any, at: Where = ()) -> Iterator[Where]:
    """Every node below the root."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        yield (*at, key)
        yield from places(child, (*at, key))


def edited(tree: Any, at: Where, value: Any) -> Any:
    """A copy in which one node is another value, or is gone."""
    changed = copy.deepcopy(tree)
    parent = changed
    for key in at[:-1]:
        parent = parent[key]
    if value is DELETED:
        del parent[at[-1]]
    else:
        parent[at[-1]] = value
    return changed


def random_edit(tree: Any, rng: np.random.Generator) -> tuple[str, Any]:
    """What was done, and the changed tree. Sometimes a key that nobody knows is added instead."""
    everywhere = list(places(tree))
    at = everywhere[int(rng.integers(len(everywhere)))]
    value = ABSURD[int(rng.integers(len(ABSURD)))]
    if rng.random() < 0.05:
        parents = [(), *(place for place in everywhere if isinstance(node(tree, place), dict))]
        at, value = (*parents[int(rng.integers(len(parents)))], HOSTILE), 1
    return f"{'.'.join(map(str, at))} = {'deleted' if value is DELETED else repr(value)[:60]}", edited(tree, at, value)


def node(tree: Any, at: Where) -> Any:
    for key in at:
        tree = tree[key]
    return tree


def as_json(tree: Any) -> str:
    """With what stands for too deep and too long written out, as any editor could."""
    text = json.dumps(tree)
    return text.replace(json.dumps(DEEP), "[" * 2000 + "]" * 2000).replace(json.dumps(LONG), "9" * 5000)


def as_toml(tree: dict[str, Any]) -> str:
    """As one inline value per top-level key; lone surrogates and the like stay as they are, to be refused."""
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in tree.items())


def _key(key: str) -> str:
    return json.dumps(key)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(child)}" for key, child in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(child) for child in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"  # no such word in TOML: a mistake that is often made
    if isinstance(value, float):
        return "nan" if value != value else "inf" if value == float("inf") else repr(value)
    if value == DEEP:
        return "[" * 2000 + "]" * 2000
    if value == LONG:
        return "9" * 5000
    return str(value) if isinstance(value, int) else json.dumps(value)


def damaged(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Bytes flipped, cut off, doubled, zeroed, put before, or gone."""
    how = ("flip", "flip", "cut", "empty", "zero", "before", "double", "tail")[int(rng.integers(8))]
    size = len(content)
    at = int(rng.integers(max(1, size)))
    if how == "flip":
        changed = bytearray(content)
        for place in rng.integers(max(1, size), size=min(size, int(rng.integers(1, 9)))):
            changed[int(place)] ^= 1 << int(rng.integers(8))
        return how, bytes(changed)
    if how == "zero":
        return f"zero from {at}", content[:at] + bytes(min(64, size - at)) + content[at + 64 :]
    made = {
        "cut": content[:at],
        "empty": b"",
        "before": b"\xff\xfe\x00junk" + content,
        "double": content + content,
        "tail": content + bytes(100),
    }
    return f"{how} at {at}" if how == "cut" else how, made[how]
