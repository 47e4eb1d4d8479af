"""What a user states of a model whose weights do not tell it: ``--set KEY=VALUE``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict, cast, get_args

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.models.config import Activation, NormOrder, Pooling
from testbed.models.importers.facts.ledger import INSTEAD

# As the libraries write them -> as our model calls them.
ACTIVATIONS: Mapping[str, Activation] = {
    **{name: name for name in get_args(Activation)},
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"), "gelu_tanh"),
    "gelu_python": "gelu",
    "swish": "silu",
}
_POOLINGS: dict[str, Pooling] = {name: name for name in get_args(Pooling)}
_NORM_ORDERS: dict[str, NormOrder] = {name: name for name in get_args(NormOrder)} | {"residual-post": "residual_post"}
# What people would state and our one model cannot be.
_NOT_HERE = {
    **{("pooling", name): f"pooling {name!r}" for name in ("max", "avgmax", "map", "prr")},
}


def _one_of(choices: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    def read(key: str, value: Any) -> Any:
        if (key, value) in _NOT_HERE:
            raise UsageError(f"{_NOT_HERE[key, value]}: not supported; {INSTEAD}")
        if value not in choices:
            raise UsageError(f"{key} = {value!r} is not one of {', '.join(choices)}; for another, {INSTEAD}")
        return choices[value]

    return read


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)):
        raise UsageError(f"{key} must be a whole number, not {value!r}")
    return int(value)


def _side(key: str, value: Any) -> int:
    sides = (
        re.split(r"[x,]", value) if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    )
    pixels = [_whole(key, side) for side in sides]
    if len(set(pixels)) != 1:
        what = "images" if key == "image" else "patches"
        raise UsageError(f"{what} that are not square ({'x'.join(map(str, pixels))}): not supported; {INSTEAD}")
    return pixels[0]


def _small(key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < 1:
        raise UsageError(f"{key} must be a number in [0, 1), such as 1e-6, not {value!r}")
    return number


def _flag(key: str, value: Any) -> bool:
    flags = {"true": True, "yes": True, "false": False, "no": False}
    if str(value).lower() not in flags:
        raise UsageError(f"{key} must be true or false, not {value!r}")
    return flags[str(value).lower()]


def _as_text(key: str, value: Any) -> str:
    return str(value)


class StatedFacts(TypedDict, total=False):
    """What was stated of a model, each value of the type that its key has."""

    weights: str
    head: str
    activation: Activation
    eps: float
    heads: int
    norm_order: NormOrder
    pooling: Pooling
    image: int
    patch: int
    channels: int
    classes: int
    width: int
    depth: int
    cls_token: bool
    qkv_bias: bool
    registers: int


_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "weights": _as_text,
    "head": _as_text,
    "activation": _one_of(ACTIVATIONS),
    "eps": _small,
    "heads": _whole,
    "norm_order": _one_of(_NORM_ORDERS),
    "pooling": _one_of(_POOLINGS),
    "image": _side,
    "patch": _side,
    "channels": _whole,
    "classes": _whole,
    "width": _whole,
    "depth": _whole,
    "cls_token": _flag,
    "qkv_bias": _flag,
    "registers": _whole,
}
_OTHER_NAMES = {"norm_eps": "eps", "layer_norm_eps": "eps", "hidden_act": "activation", "act_layer": "activation"}
STATED_KEYS: tuple[str, ...] = tuple(_KEYS)


def settings(texts: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` texts -> a dict. Raises UsageError for one without "=" and for a key with two values."""
    values: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = _OTHER_NAMES.get(key.strip(), key.strip())
        if not equals or not value.strip():
            raise UsageError(f"--set {text}: write KEY=VALUE; keys: {', '.join(_KEYS)}")
        if values.setdefault(key, value.strip()) != value.strip():
            raise UsageError(f"{key} was stated twice: {values[key]} and {value.strip()}")
    return values


def stated(values: Mapping[str, Any]) -> StatedFacts:
    """The values, each checked and in the type that its key has; None is not stated.

    Raises UsageError for an unknown key or a value that cannot be, and by name for what no model of ours has.
    """
    checked: dict[str, Any] = {}
    for name, value in values.items():
        key = _OTHER_NAMES.get(name, name)
        if key not in _KEYS:
            raise UsageError(unknown("key", name, _KEYS))
        if value is not None:
            checked[key] = _KEYS[key](key, value)
    return cast(StatedFacts, checked)
