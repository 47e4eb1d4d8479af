"""What a preview of a campaign tells, as records; each gives its JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from testbed.campaign.plan.groups import Values
from testbed.campaign.spec.stop import StopDimension
from testbed.core.fault import FaultModel, Op
from testbed.core.site import Where

ASSUMED_IMAGES = 4
"""Images of a persistent fault, where a pilot decides."""


@dataclass(frozen=True)
class FaultsPerStratum:
    least: int
    most: int


@dataclass(frozen=True)
class HalfWidths:
    """Half the width of a rate's interval, at most: over everything, over the smallest site and over the smallest bit
    class."""

    all: float
    site: float
    bit_class: float


@dataclass(frozen=True)
class SectionPreview:
    """What one [[faults]] section comes to. ``half_width``: by fault model. ``sites``, ``strata``: how many."""

    target: str
    where: Where
    ops: tuple[Op, ...]
    pattern: str
    scope: str
    sites: int
    strata: int
    faults_per_stratum: FaultsPerStratum
    population: int
    faults: int
    rows: int
    half_width: dict[str, HalfWidths]
    estimated_seconds: float


@dataclass(frozen=True)
class DryRunReport:
    """What a campaign would do. ``bytes``: of the disk, at least; ``unchecked``: what only the run can tell.

    ``gate_rows``: inferences that the gates make before the first fault, at least; ``gate_seconds``: of the engine, for them.
    """

    name: str
    faults: int
    rows: int
    images: int
    tier_images: list[int]
    training_epochs: int
    bytes: int
    warnings: list[str]
    unchecked: list[str]
    confidence: float
    sections: list[SectionPreview]
    estimated_seconds: float
    gate_rows: int
    gate_seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class PartPreview:
    """One part of a plan: strata of one fault model put together. ``values``: along the dimensions ``by``.

    ``population``: its faults N; ``leveugle``: Leveugle's n; ``drawn``: faults that the spec draws.
    """

    model: FaultModel
    by: tuple[StopDimension, ...]
    values: Values
    strata: int
    population: int
    leveugle: int
    drawn: int

    def to_json(self) -> dict[str, Any]:
        """One flat object, a key per dimension among the others."""
        return {
            **self.model.to_json(),
            **dict(zip(self.by, self.values, strict=True)),
            "strata": self.strata,
            "population": self.population,
            "leveugle": self.leveugle,
            "drawn": self.drawn,
        }


@dataclass(frozen=True)
class PreviewCost:
    """What so many faults cost. ``seconds``: None where it is not known what a row costs."""

    faults: int
    rows: int
    seconds: float | None


@dataclass(frozen=True)
class PreviewTotals:
    """Sums over all parts, for the spec's own draws and for Leveugle's n of every part."""

    parts: int
    strata: int
    population: int
    drawn: PreviewCost
    leveugle: PreviewCost

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class AdaptiveBounds:
    """The numbers of faults between which an adaptive campaign ends. ``leveugle``: what uniform sampling would need;
    ``faults_at_least``: what it takes whatever the rates are.

    ``relative``: the margin as a share of the rate, None where it is absolute. ``rate``: at which ``leveugle`` is told, the one
    that was said or else that which needs most. ``expected``: what that costs.
    """

    per: str
    domains: int
    strata: int
    faults_at_least: int
    leveugle: int
    relative: float | None
    rate: float
    expected: PreviewCost
    forecast: PreviewCost
    forecast_uniform: PreviewCost
    because: str


@dataclass(frozen=True)
class ImagesEach:
    """Number of images that a place's persistent faults are run on. ``auto``: a pilot decides, and it is assumed."""

    target: str
    where: Where
    images: int
    auto: bool


@dataclass(frozen=True)
class PreviewHead:
    """What was asked for. ``adaptive``: of a campaign with [stop], whose "drawn" is its first round. ``images_each``: per
    place, on how many images its persistent faults are run, where that is not all."""

    name: str
    by: list[StopDimension]
    margin: float
    relative: bool
    rate: float
    confidence: float
    images: int
    adaptive: AdaptiveBounds | None
    images_each: tuple[ImagesEach, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Leaves out what does not differ from all images."""
        values = asdict(self)
        if not self.images_each:
            del values["images_each"]
        return values
