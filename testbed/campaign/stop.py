"""The [stop] table of a spec: a campaign that draws in rounds until every rate asked for is known well enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from testbed.campaign.faultspec import FaultSpec
from testbed.campaign.strict import AtMost, Complaint, Confidence, Count, Strict, Whole
from testbed.core.errors import UsageError
from testbed.core.nearest import unknown

if TYPE_CHECKING:
    from testbed.analysis.sequential import StopRule

Dimension = Literal["site", "kind", "block", "bit", "bit_class", "tier"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)


def dimensions(text: str) -> tuple[Dimension, ...]:
    """ "site x bit_class" in parts; "all" is none. Raises UsageError for an unknown dimension, or one named twice."""
    if text.strip() == "all":
        return ()
    parts = [part.strip() for part in text.split(" x ")]
    for part in parts:
        if part not in DIMENSIONS:
            raise UsageError(f"{unknown('dimension', part, DIMENSIONS)}, put together as 'site x bit'")
    if len(set(parts)) < len(parts):
        raise UsageError(f"{text!r} names a dimension twice")
    return tuple(part for part in DIMENSIONS if part in parts)


class StopSpec(Strict):
    """Draw until half the width of every interval is at most ``margin``.

    margin, confidence: of the rate of ``measure`` in every part that ``per`` tells apart, for each fault model; the
        campaign's confidence unless said. Each interval holds with this confidence, at all looks together.
    strata: what is sampled uniformly, as one. Always within the parts that ``per`` and ``steer`` tell apart.
    steer: by what the allocation learns: strata of one part that differ in nothing of this are drawn from in proportion
        to their populations.
    pilot: least faults per stratum in the first round. growth: of a part's faults from one round to the next, at most.
    spending: of the error over the looks, "obrien-fleming" for late, "pocock" for evenly.
    proxy: what guesses the effect of a fault before any is run: "magnitude", by how far the flip moves the value;
        "gradient", by the first-order effect on the golden class's lead. It steers, and changes no estimate: strata are
        also steered apart by their guesses.
    """

    margin: Annotated[float, Field(ge=1e-6, lt=0.5)]
    confidence: Confidence | None = None
    per: str = "block"
    measure: Literal["sdc1", "outside"] = "sdc1"
    strata: str = "site x bit_class"
    steer: str = "bit_class"
    pilot: Count = 2
    growth: Annotated[float, Field(gt=1, le=10)] = 2.0
    max_rounds: Annotated[Whole, AtMost(1000, "the error is spent over the rounds one by one")] = 20
    max_faults: Count | None = None
    spending: Literal["obrien-fleming", "pocock"] = "obrien-fleming"
    proxy: Literal["none", "magnitude", "gradient"] = "none"

    @field_validator("per", "strata", "steer")
    @classmethod
    def _known(cls, value: Any) -> Any:
        try:
            dimensions(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def domains(self) -> tuple[Dimension, ...]:
        return dimensions(self.per)

    @property
    def steered_by(self) -> tuple[Dimension, ...]:
        return dimensions(self.steer)

    @property
    def sampled_by(self) -> tuple[Dimension, ...]:
        """Of the strata: what is asked for, and what domains and classes are told apart by."""
        asked = {*dimensions(self.strata), *self.domains, *self.steered_by}
        return tuple(dimension for dimension in DIMENSIONS if dimension in asked)

    def rule(self, confidence: float) -> StopRule:
        """confidence: the campaign's."""
        from testbed.analysis.sequential import StopRule  # scipy's optimiser, which no worker needs to wait for

        return StopRule(
            self.margin,
            self.confidence or confidence,
            self.spending,
            self.pilot,
            self.growth,
            self.max_rounds,
            self.max_faults or math.inf,
        )

    def complaints(self, sections: Mapping[int, FaultSpec]) -> Iterator[Complaint]:
        """Of sections, by their number, that do not go with it."""
        for number, section in sections.items():
            if section.per_stratum != 1:
                yield Complaint(
                    f"faults[{number}].per_stratum", "[stop] decides how many faults are drawn; leave it out"
                )
            if section.pattern == "sites":
                yield Complaint(
                    f"faults[{number}].pattern",
                    "faults at several sites have no strata to draw from in turn; leave [stop] out",
                )
        if self.measure == "sdc1" and any(section.target == "attention" for section in sections.values()):
            yield Complaint("stop.measure", 'the attention module has no classes; ask for measure = "outside"')
        for key, told in (("per", self.domains), ("steer", self.steered_by)):
            if "tier" in told and any(section.persistent for section in sections.values()):
                yield Complaint(f"stop.{key}", "persistent faults strike the images of all tiers; leave out tier")
