"""ImageNet's 1,000 classes (ILSVRC 2012) by their WordNet ids, in the order of published models' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

IMAGENET = "imagenet"
_SAME = 0.95  # of the names; libraries spell some of them otherwise


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The ids, "n01440764" first."""
    return tuple(Path(__file__).with_name("imagenet_wnids.txt").read_text().split())


def with_wnids(names: Sequence[str]) -> list[str] | None:
    """``names`` with the id before each ("n01440764 tench"), where they are ImageNet's in the usual order; else None.

    A name may list synonyms after commas. Two classes may have one name: "crane" is a bird and a machine.
    """
    if len(names) != len(imagenet_wnids()):
        return None
    from testbed.data.torchvision_import import imagenet_names  # it takes seconds

    known = [name.lower() for name in imagenet_names()]
    same = sum(known[index] in _synonyms(name) for index, name in enumerate(names))
    if same < _SAME * len(names):
        return None
    return [f"{wnid} {name}" for wnid, name in zip(imagenet_wnids(), names, strict=True)]


def _synonyms(name: str) -> list[str]:
    return [part.strip().lower() for part in name.split(",")]
