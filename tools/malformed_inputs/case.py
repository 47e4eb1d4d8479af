"""One malformed input: how it is laid out in an empty folder, and the command that is given it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Base:
    """Sound inputs, which cases copy and damage. run: a finished campaign's folder; other: a second one of the same model;
    model: a trained model's run folder with its golden record; weights: .pth and .safetensors of that model; onnx: its
    plain ONNX file; spec: the campaign's TOML text, whose data set is embedded."""

    run: Path
    other: Path
    model: Path
    weights: tuple[Path, ...]
    onnx: Path
    spec: str


@dataclass(frozen=True)
class Case:
    """``lay_out`` writes the input into an empty folder and returns the command's arguments, to be run from there."""

    kind: str
    name: str
    lay_out: Callable[[Path], Sequence[str]]


Cases = Callable[[Base, np.random.Generator], Iterator[Case]]
"""An endless or long stream of cases of one kind, seeded."""
