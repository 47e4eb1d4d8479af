"""The [stop] table of a spec: a campaign that draws in rounds until every rate asked for is known well enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from testbed.campaign.spec.faults import FaultSpec
from testbed.campaign.spec.fields import AtMost, Complaint, ConfidenceLevel, Count, Strict, WholeNumber, refuse
from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown

if TYPE_CHECKING:
    from testbed.analysis.adaptive.rule import StopRule

StopDimension = Literal["site", "kind", "block", "bit", "bit_class", "tier", "value"]
SAMPLED: tuple[StopDimension, ...] = get_args(StopDimension)
DIMENSIONS = SAMPLED[:-1]  # of rates: rows do not tell values apart


LEAST_MARGIN = 0.0005  # of a relative margin: a rate of less than ten times this is told to within it


def dimensions(text: str, known: Sequence[StopDimension] = DIMENSIONS) -> tuple[StopDimension, ...]:
    """ "site x bit_class" in parts; "all" is none. Raises UsageError for an unknown dimension, or one named twice."""
    if text.strip() == "all":
        return ()
    parts = [part.strip() for part in text.split(" x ")]
    for part in parts:
        if part not in known:
            raise UsageError(f"{unknown('dimension', part, known)}, put together as 'site x bit'")
    if len(set(parts)) < len(parts):
        raise UsageError(f"{text!r} names a dimension twice")
    return tuple(part for part in known if part in parts)


class StopSpec(Strict):
    """When an adaptive campaign ends: once half the width of every interval is at most `margin`, or `relative` of the rate."""

    margin: float = Field(
        default=LEAST_MARGIN,
        ge=1e-6,
        lt=0.5,
        description="Half the width that every interval may have: 0.01 is one point up and down, whatever the rate. It may be "
        "left out beside `relative`.",
    )
    relative: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Half the width that an interval may have as a share of its rate: 0.1 is a tenth of the rate up and down. "
        "The wider of this and `margin` counts, so that a rate without an event is known to within `margin`, 0.05 points "
        "where that is left out.",
    )
    confidence: ConfidenceLevel | None = Field(
        default=None, description="Confidence of each interval, at all looks together; the campaign's unless stated."
    )
    per: str = Field(
        default="block",
        description="Whose rates must be known, for each fault model: dimensions (site, kind, block, bit, bit_class, "
        'tier) joined as "kind x bit_class", or "all".',
    )
    measure: Literal["sdc1", "outside"] = Field(
        default="sdc1",
        description='Which rate: "sdc1" (another top-1) or "outside" (any output outside the tolerance).',
    )
    strata: str = Field(
        default="site x bit_class",
        description='What is sampled uniformly, as one stratum: dimensions, or "all"; always within the parts that `per` '
        'and `steer` tell apart. "value" tells apart what a flip of an exponent bit does, by the golden value and the '
        'kind of site. With `relative` it is "site x bit_class x value" unless stated.',
    )
    steer: str = Field(
        default="bit_class",
        description='By what the allocation learns where variance is: dimensions, or "all". Strata of one part that do '
        'not differ in these are drawn from in proportion to their populations. With `relative` it is "bit_class x value" '
        "unless stated.",
    )
    pilot: Count = Field(default=2, description="Least faults per stratum in the first round.")
    growth: float = Field(
        default=3.0, gt=1, le=10, description="Largest growth of a part's faults from one round to the next."
    )
    max_rounds: Annotated[WholeNumber, AtMost(1000, "the error is spent over the rounds one by one")] = Field(
        default=20, description="Most rounds; then the campaign ends, whatever the margins."
    )
    max_faults: Count | None = Field(
        default=None, description="Most faults in all; then the campaign ends, whatever the margins."
    )
    spending: Literal["obrien-fleming", "pocock"] = Field(
        default="obrien-fleming",
        description='How the error is spent over the looks: "obrien-fleming", late, or "pocock", evenly.',
    )
    proxy: Literal["none", "magnitude", "gradient"] = Field(
        default="none",
        description='What guesses the effect of a fault before any is run: "magnitude", by how far the flip moves the '
        'value, or "gradient", by the first-order effect on the golden class\'s lead. It steers the draws and '
        "changes no estimate.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_relative(cls, values: Any) -> Any:
        """Rates that are worth a relative margin are worth finer strata."""
        if isinstance(values, Mapping) and values.get("relative") is not None:
            return {"strata": "site x bit_class x value", "steer": "bit_class x value", **values}
        return values

    @field_validator("per", "strata", "steer")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        try:
            dimensions(value, DIMENSIONS if info.field_name == "per" else SAMPLED)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _says_how_well(self) -> StopSpec:
        if self.relative is None and "margin" not in self.model_fields_set:
            how = "say how well rates are to be known: relative = 0.1 (a tenth of each), or margin = 0.01 (a point)"
            refuse([Complaint("margin", f"missing; {how}")])
        return self

    @property
    def domains(self) -> tuple[StopDimension, ...]:
        return dimensions(self.per)

    @property
    def steered_by(self) -> tuple[StopDimension, ...]:
        return dimensions(self.steer, SAMPLED)

    @property
    def sampled_by(self) -> tuple[StopDimension, ...]:
        """Dimensions of the strata: what is asked for, and what domains and classes are told apart by."""
        asked = {*dimensions(self.strata, SAMPLED), *self.domains, *self.steered_by}
        return tuple(dimension for dimension in SAMPLED if dimension in asked)

    def rule(self, confidence: float) -> StopRule:
        """The rule of stopping. confidence: the campaign's."""
        from testbed.analysis.adaptive.rule import StopRule  # scipy's optimiser, which no worker needs to wait for

        return StopRule(
            self.margin,
            self.confidence or confidence,
            self.spending,
            self.pilot,
            self.growth,
            self.max_rounds,
            self.max_faults or math.inf,
            self.relative or 0.0,
        )

    def complaints(self, sections: Mapping[int, FaultSpec]) -> Iterator[Complaint]:
        """Complaints of sections, by their number, that do not go with it."""
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
        for key, dimensions in (("per", self.domains), ("steer", self.steered_by)):
            if "tier" in dimensions and any(section.persistent for section in sections.values()):
                yield Complaint(f"stop.{key}", "persistent faults strike the images of all tiers; leave out tier")
