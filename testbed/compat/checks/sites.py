"""Whether every block's tensors have their names, and the blocks their own numbers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from testbed.compat.architectures.entry import Architecture
from testbed.compat.checks.subject import CheckedExport, CheckFailed

IN_BLOCK = (
    *("norm1", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.softmax", "attn.context", "attn.proj"),
    *("attn.residual", "norm2", "mlp.fc1", "mlp.gelu", "mlp.fc2", "mlp.residual"),
)
_LISTED = 6


def check_sites(subject: CheckedExport) -> None:
    """Raises CheckFailed for blocks of other numbers, and for names that are neither there nor known to be absent."""
    entry, catalogued = subject.entry, subject.catalogue
    named = {site.name for site in catalogued.recognised if site.where == "activation"}
    if not named:
        raise CheckFailed("no site is recognised")
    numbers = {site.block for site in catalogued.recognised if site.block is not None}
    lacking = [name for name in expected(entry) if name not in named]
    if lacking:
        raise CheckFailed(f"{_listed(lacking)}{_why(lacking, dict(catalogued.missing))}")
    if numbers != set(range(entry.blocks)):
        raise CheckFailed(f"blocks {_listed(map(str, sorted(numbers)))} instead of 0 to {entry.blocks - 1}")


def expected(entry: Architecture) -> list[str]:
    """Names of the activations in an architecture's blocks."""
    names: dict[str, None] = {}
    for number in range(entry.blocks):
        for name in IN_BLOCK:
            if not why_absent(entry, f"block.{number}.{name}"):
                names |= dict.fromkeys(f"block.{number}.{own}" for own in entry.named.get(name, (name,)))
    return list(names)


def why_absent(entry: Architecture, site: str) -> str:
    """Why a block's structure has no such tensor; empty where it has."""
    in_block = site.split(".", 2)[2]
    patterns = (why for pattern, why in entry.absent.items() if _names(pattern, site, in_block))
    return next(patterns, "")


def _names(pattern: str, site: str, in_block: str) -> bool:
    return fnmatch.fnmatchcase(site if pattern.startswith("block.") else in_block, pattern)


def _why(lacking: list[str], missing: dict[str, str]) -> str:
    """What the recogniser says of the first of them, or of the branch or block that it is in."""
    for name in lacking:
        parts = name.split(".")
        for length in range(len(parts), 1, -1):
            if why := missing.get(".".join(parts[:length])):
                return f": {why}"
    return ""


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _LISTED} more" if len(every) > _LISTED else ""
    return f"{', '.join(every[:_LISTED])}{more}" or "none"
