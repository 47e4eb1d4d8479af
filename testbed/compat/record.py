"""What is known of each model in the end: a cell per check, and why a cell is not true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.compat.architectures.entry import ModelLibrary
from testbed.compat.exporters import Exporter

CHECKS = ("instrument", "sites", "twin", "zero_fault", "flips", "suffix", "weights")


@dataclass(frozen=True)
class CheckVerdict:
    """One cell. ``holds``: None where the check has nothing to look at, or could not be made for what failed before."""

    holds: bool | None
    reason: str = ""


@dataclass(frozen=True)
class ArchitectureResult:
    """A model as one exporter wrote it. ``absent``: what its structure has no tensor for; ``notes``: what a check that holds
    did not see; ``seconds``: of all of it."""

    name: str
    family: str
    library: ModelLibrary
    exporter: Exporter
    verdicts: Mapping[str, CheckVerdict]
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def failed(self) -> list[str]:
        """Names of the checks that do not hold."""
        return [check for check, verdict in self.verdicts.items() if verdict.holds is False]

    @property
    def reason(self) -> str:
        """Why cells are not true, check by check; what is wrong first. Empty where all are."""
        reasons: dict[str, list[str]] = {}
        for holds in (False, None):
            for check, verdict in self.verdicts.items():
                if verdict.holds is holds and verdict.reason:
                    reasons.setdefault(verdict.reason, []).append(check)
        return "; ".join(f"{', '.join(checks)}: {reason}" for reason, checks in reasons.items())

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": self.family,
            "library": self.library,
            "exporter": self.exporter,
            "checks": {check: verdict.holds for check, verdict in self.verdicts.items()},
            "reason": self.reason,
            "absent": list(self.absent),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Matrix:
    """The support matrix. ``versions``: of the libraries whose models are in it, and of what exported and ran them."""

    models: tuple[ArchitectureResult, ...]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[bool]:
        """Every cell that is true or false."""
        return [v.holds for model in self.models for v in model.verdicts.values() if v.holds is not None]

    @property
    def holds(self) -> bool:
        """Whether no cell is false."""
        return all(self.cells)

    def to_json(self) -> dict[str, Any]:
        return {"models": [model.to_json() for model in self.models], "versions": dict(self.versions)}
