"""What every check is given, and how it says that it could not be made here."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from testbed import TestbedError

Section = dict[str, Any]
"""What a check found: ``ok``, ``reason`` where it is not, and facts."""


class Absent(Exception):
    """What the check needs is not on this machine: no result, and no failure."""


def _untold(facts: Section) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Setting:
    """How a stage is to run.

    gpu: on the GPU; without one, the CPU stands in for it. quick: small sizes. folder: the stage's own, for what it
    leaves behind. shared: of all stages of one run, for what they can use of one another. limit_s: the stage is ended
    after so many seconds. weights, data, preprocess: the model and the images of campaigns; None: random ones. tell:
    takes what was found so far, so that a stage that is ended leaves it.
    """

    gpu: bool
    quick: bool
    folder: Path
    shared: Path
    limit_s: float = math.inf
    weights: Path | None = None
    data: str | None = None
    preprocess: str | None = None
    tell: Callable[[Section], None] = field(default=_untold, repr=False)
    began: float = field(default_factory=time.monotonic, repr=False)

    @property
    def backend(self) -> str:
        """The engine that is checked."""
        return "torch-cuda" if self.gpu else "torch"

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"

    @property
    def left_s(self) -> float:
        """Seconds until the stage is ended."""
        return self.limit_s - (time.monotonic() - self.began)

    def require_gpu(self) -> None:
        if not self.gpu:
            raise Absent("needs a GPU")

    def to_json(self) -> str:
        """Without ``tell`` and ``began``, which belong to a process."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("tell", "began")}
        values["limit_s"] = self.limit_s if math.isfinite(self.limit_s) else None
        return json.dumps(values, default=str)

    @classmethod
    def from_json(cls, text: str, tell: Callable[[Section], None]) -> Setting:
        values = json.loads(text)
        for name in ("folder", "shared", "weights"):
            values[name] = None if values[name] is None else Path(values[name])
        values["limit_s"] = math.inf if values["limit_s"] is None else values["limit_s"]
        return cls(**values, tell=tell)


def require(backend: str) -> None:
    """Raises Absent where the engine's library, or what it runs on, is not here."""
    from testbed.testing import available

    usable, reason = available(backend)
    if not usable:
        raise Absent(reason)


def write_json(path: Path, value: Any) -> None:
    """The whole file or nothing, so that whoever reads it meanwhile reads one that is whole. Raises TestbedError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
        os.replace(part, path)
    except OSError as error:
        raise TestbedError(f"{path} cannot be written: {error.strerror or error}") from error


def plain(value: Any) -> Any:
    """As JSON has it: NaN and infinities become text, NumPy's numbers Python's, paths text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    value = str(value) if isinstance(value, Path) else value
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
