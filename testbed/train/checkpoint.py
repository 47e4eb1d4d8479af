"""The state of a training after an epoch, on disk: enough to go on as if nothing had happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import JsonValue
from torch import Tensor

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import atomic_path
from testbed.train.record import EpochRecord

_FORMAT = "testbed training checkpoint 1"


@dataclass
class State:
    """The state of a training that has done ``epoch`` epochs. ``best`` is a copy of the weights of ``best_epoch``."""

    model: dict[str, Tensor]
    optimiser: dict[str, Any]
    epoch: int = 0
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    curves: list[EpochRecord] = field(default_factory=list)


def save(path: Path, state: State, identity: dict[str, JsonValue]) -> None:
    """Atomically. ``identity`` is what the training is of (nested names and plain values)."""
    content = vars(state) | {
        "format": _FORMAT,
        "identity": identity,
        "curves": [record.to_json() for record in state.curves],
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load(path: Path, identity: dict[str, JsonValue]) -> State:
    """Raises StaleArtefact for a file that is no whole checkpoint, UsageError for one of another training."""
    try:
        with open(path, "rb") as file:
            state, theirs = _read(file)
    except OSError as error:
        raise StaleArtefact(f"cannot read checkpoint {path}: {error.strerror}") from error
    except _Damaged as error:
        raise StaleArtefact(
            f"checkpoint {path} is truncated or not one of ours; delete it to start the training over"
        ) from error
    for name, (kept, asked) in _differences(theirs, identity).items():
        raise UsageError(
            f"checkpoint {path} is of another training: {name} is {kept!r} there, {asked!r} is asked for;"
            f" delete it to start over, or ask for the same"
        )
    return state


class _Damaged(Exception):
    pass


def _read(file: BinaryIO) -> tuple[State, dict[str, JsonValue]]:
    """The state and the identity it was saved with."""
    try:
        # Never unpickles anything but tensors and plain values, whatever the file says.
        content = torch.load(file, map_location="cpu", weights_only=True)
        if content.pop("format") != _FORMAT:
            raise KeyError("format")
        identity = content.pop("identity")
        return State(**content | {"curves": [EpochRecord(**record) for record in content["curves"]]}), identity
    except Exception as error:  # torch.load reports a damaged file by a dozen kinds of exception, OSError among them
        raise _Damaged from error


def _differences(kept: Any, asked: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (kept, asked) wherever two nested dictionaries differ."""
    if isinstance(kept, dict) and isinstance(asked, dict):
        differences: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*kept, *asked}):
            differences |= _differences(kept.get(key), asked.get(key), f"{name}.{key}" if name else key)
        return differences
    return {} if _plain(kept) == _plain(asked) else {name: (kept, asked)}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
