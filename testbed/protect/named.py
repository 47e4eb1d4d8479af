"""Passes of protection by their names, as commands and functions take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.protect.checks.activations import ActivationCheck
from testbed.protect.checks.bounds import FACTOR
from testbed.protect.contract import ORDER, ProtectionPass
from testbed.protect.passes.checksum import ChecksumPass
from testbed.protect.passes.duplicate import DuplicatePass
from testbed.protect.passes.nonfinite import NonfinitePass
from testbed.protect.passes.range import NanPolicy, RangePass


def passes_named(
    names: Sequence[str],
    where: Mapping[str, Sequence[str]],
    *,
    margin: float = 1.3,
    nan: NanPolicy = "zero",
    vote: bool = False,
    factor: float = FACTOR,
    activations: ActivationCheck = "recompute",
    unsigned: bool = False,
    under_budget: bool = False,
) -> tuple[ProtectionPass, ...]:
    """The passes, with what is set of each. where: pass -> patterns of its sites; its own defaults for others, but where a
    budget decides guards may stand at every site.

    Raises UsageError for an unknown pass, one that is named twice, and sites or a vote of one that is not named.
    """
    for name in (*names, *where):
        if name not in ORDER:
            raise UsageError(unknown("pass", name, ORDER))
    if len(set(names)) != len(names):
        raise UsageError(f"each pass of protection can be named once: {', '.join(names)}")
    if missing := [name for name in where if name not in names]:
        raise UsageError(f"sites are given of pass {missing[0]}, which is not asked for: {', '.join(names)}")
    if vote and "duplicate" not in names:
        raise UsageError("a vote is of pass duplicate, which is not asked for")
    sites = {name: tuple(patterns) for name, patterns in where.items()}
    made: list[ProtectionPass] = []
    for name in names:
        if name == "range":
            usual = ("*",) if under_budget else RangePass.where
            made.append(RangePass(sites.get(name, usual), margin, nan))
        elif name == "checksum":
            made.append(ChecksumPass(sites.get(name, ChecksumPass.where), factor, activations, unsigned))
        elif name == "duplicate":
            made.append(DuplicatePass(sites.get(name, DuplicatePass.where), vote))
        else:
            made.append(NonfinitePass(sites.get(name, NonfinitePass.where)))
    return tuple(made)


def patterns_by_pass(names: Sequence[str], where: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Pass -> patterns of its sites. where: each "PATTERN,..." of all passes that are named, or "PASS:PATTERN,..." of one."""
    patterns: dict[str, tuple[str, ...]] = {}
    for text in where:
        name, colon, rest = text.partition(":")
        sites = tuple((rest if colon else text).split(","))
        for step in [name] if colon else names:
            patterns[step] = (*patterns.get(step, ()), *sites)
    return patterns
