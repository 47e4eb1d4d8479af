"""All architectures of the support matrix, and the choice of some."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.compat.architectures.entry import Architecture
from testbed.compat.architectures.other_models import TORCHVISION, VIT_PYTORCH
from testbed.compat.architectures.timm_hierarchical import HIERARCHICAL
from testbed.compat.architectures.timm_models import PLAIN
from testbed.compat.architectures.transformers_models import TRANSFORMERS
from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown

ALL: tuple[Architecture, ...] = (*PLAIN, *HIERARCHICAL, *TRANSFORMERS, *TORCHVISION, *VIT_PYTORCH)


def choose(
    families: Sequence[str] = (), libraries: Sequence[str] = (), models: Sequence[str] = ()
) -> list[Architecture]:
    """Architectures of these families, libraries and names, in the catalogue's order; all of them where none is said.

    A family is also meant by how its name begins: "ViT" is "ViT, registers" as well. Raises UsageError for an unknown
    family or name, and where nothing is left.
    """
    for model in models:
        if model not in {entry.name for entry in ALL}:
            raise UsageError(unknown("model", model, [entry.name for entry in ALL]))
    known = dict.fromkeys(entry.family for entry in ALL)
    for family in families:
        if not any(_is_of(entry, family) for entry in ALL):
            raise UsageError(unknown("family", family, known))
    chosen = [
        entry
        for entry in ALL
        if (not models or entry.name in models)
        and (not libraries or entry.library in libraries)
        and (not families or any(_is_of(entry, family) for family in families))
    ]
    if not chosen:
        raise UsageError("no model is of that family and library; `testbed compat -h` lists them")
    return chosen


def _is_of(entry: Architecture, family: str) -> bool:
    own, asked = entry.family.casefold(), family.casefold()
    return own == asked or own.startswith(f"{asked},")
