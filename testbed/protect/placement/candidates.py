"""Places that protection could take: of `range` and `duplicate` each guard and copy, of `checksum` and `nonfinite` all checks
of a block, since those share their sums."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from testbed.bench.operations import Operations, operations_of
from testbed.core.protected import PREFIX
from testbed.protect.build import protect
from testbed.protect.checks.alarms import block_of
from testbed.protect.contract import CalibrationSet, ProtectedPlace, ProtectionPass
from testbed.protect.graph import GraphEditor
from testbed.protect.passes.checksum import ChecksumPass
from testbed.protect.passes.duplicate import DuplicatePass
from testbed.protect.passes.nonfinite import NonfinitePass
from testbed.protect.passes.range import RangePass

_BLOCK = re.compile(r"^block\.\d+\b")


@dataclass(frozen=True)
class Candidate:
    """A place that could be protected. patterns: what a pass's ``where`` names it by; covers: sites whose faults it can see or
    mend; operations: that it adds, for one image."""

    step: str
    name: str
    patterns: tuple[str, ...]
    covers: tuple[str, ...]
    operations: int

    @property
    def group(self) -> str:
        """Its like in other blocks: they are measured together."""
        return f"{self.step} {_BLOCK.sub('block.*', self.name)}"


def candidates_of(
    plain: ModelProto, passes: Sequence[ProtectionPass], calibration: CalibrationSet, counted: Operations
) -> list[Candidate]:
    """All places of the passes, found by applying each alone. counted: of the plain file."""
    sites = GraphEditor(plain).sites
    candidates = []
    for step in passes:
        protected = protect(plain, [step], calibration)
        added = operations_of(protected.proto).without(counted)
        joined: dict[str, list[ProtectedPlace]] = {}
        for spot in protected.applied[0].places:
            joined.setdefault(_name(step, spot), []).append(spot)
        shares = _by_place(added, step.name, list(joined))
        for name, spots in joined.items():
            covers = tuple(dict.fromkeys(site for spot in spots for site in spot.covers if site in sites))
            patterns = (name,) if isinstance(step, RangePass | DuplicatePass) else covers
            candidates.append(Candidate(step.name, name, patterns, covers, shares[name]))
    return candidates


def _name(step: ProtectionPass, spot: ProtectedPlace) -> str:
    if isinstance(step, ChecksumPass | NonfinitePass):
        return block_of([spot.name, *spot.covers])
    return spot.name


def _by_place(added: Mapping[str, int], step: str, names: Iterable[str]) -> dict[str, int]:
    """Operations of each place, by the names of the nodes that were added for it."""
    shares = dict.fromkeys(names, 0)
    for node, operations in added.items():
        stem = re.sub(r"^\d+\.", "", node.removeprefix(f"{PREFIX}flag.").removeprefix(PREFIX).removeprefix(f"{step}."))
        owners = [name for name in shares if stem == name or stem.startswith(f"{name}.")]
        if owners:
            shares[max(owners, key=len)] += operations
    return shares


def narrowed(passes: Iterable[ProtectionPass], chosen: Iterable[Candidate]) -> tuple[ProtectionPass, ...]:
    """The passes at the chosen places alone; a pass of which none was chosen is left out."""
    patterns: dict[str, tuple[str, ...]] = {}
    for candidate in chosen:
        patterns[candidate.step] = (*patterns.get(candidate.step, ()), *candidate.patterns)
    return tuple(_at(step, patterns[step.name]) for step in passes if step.name in patterns)


def _at(step: ProtectionPass, where: tuple[str, ...]) -> ProtectionPass:
    assert isinstance(step, RangePass | DuplicatePass | ChecksumPass | NonfinitePass)
    return dataclasses.replace(step, where=where)
