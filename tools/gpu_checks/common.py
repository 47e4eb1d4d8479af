"""What every check is given, and how it says that it could not be made here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testbed.engines.availability import available

Section = dict[str, object]


class Absent(Exception):
    """What the check needs is not on this machine: no result, and no failure."""


@dataclass(frozen=True)
class Setting:
    """``gpu``: whether there is one to be checked; without, what can be done on the CPU stands in for it. ``quick``: small
    sizes, to try the checks themselves. ``folder``: for what they leave behind."""

    gpu: bool
    quick: bool
    folder: Path

    def require_gpu(self) -> None:
        if not self.gpu:
            raise Absent("needs a GPU")


def require(backend: str) -> None:
    """Raises Absent where the engine's library, or what it runs on, is not here."""
    usable, reason = available(backend)
    if not usable:
        raise Absent(reason)
