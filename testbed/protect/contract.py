"""What every pass of protection is, and what it says of what it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Protocol

from onnx import ModelProto
from pydantic import JsonValue

from testbed.core.arrays import Float32s
from testbed.core.protected import PASSES
from testbed.protect.graph import GraphEditor

ORDER = PASSES
"""The order in which passes are applied, whatever the order in which they are asked for: what corrects comes first, so
that checks see what is taken on."""


@dataclass(frozen=True)
class CalibrationSet:
    """What bounds and thresholds are measured on. images: (n, C, S, S), none of them evaluated later; engines: names."""

    images: Float32s
    engines: tuple[str, ...]
    precision: str


@dataclass(frozen=True)
class ProtectedPlace:
    """One guard, check or copy. covers: the sites whose faults it can see or mend; low, high: its bounds; noise: the
    largest deviation without a fault on the calibration images; rule: the bound that a published rule gives."""

    name: str
    kind: str
    covers: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    noise: float | None = None
    rule: float | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """JSON-ready."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Applied:
    """What a pass did: its places, and per site that it leaves out, why. settings: as asked for."""

    name: str
    settings: dict[str, JsonValue]
    places: tuple[ProtectedPlace, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """JSON-ready; what a protected file says of itself."""
        return {
            "pass": self.name,
            "settings": self.settings,
            "places": [spot.to_json() for spot in self.places],
            "left_out": dict(self.left_out),
        }


class ProtectionPass(Protocol):
    """A step from one valid ONNX file to another. ``name``: of `ORDER`; ``detects``: adds alarms, and changes no output;
    ``corrects``: may change outputs."""

    @property
    def name(self) -> str: ...

    @property
    def detects(self) -> bool: ...

    @property
    def corrects(self) -> bool: ...

    def requires(self, graph: GraphEditor) -> None:
        """Raises UsageError, with what to do, where the pass cannot be applied to the file."""
        ...

    def planned(self, graph: GraphEditor) -> tuple[list[str], dict[str, str]]:
        """Where the pass would add something, and per site that it leaves out, why."""
        ...

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What was asked for, JSON-ready."""
        ...

    def call(self, proto: ModelProto, calibration: CalibrationSet) -> tuple[ModelProto, Applied]:
        """The file with the pass, and what was done."""
        ...

    def ensures(self, proto: ModelProto, applied: Applied) -> None:
        """Raises TestbedError where the file does not hold what the pass put there."""
        ...
