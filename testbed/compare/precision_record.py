"""The form of a comparison of two precisions: what `testbed campaign compare --json` prints, and tables and the API read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from testbed.compare.record import CampaignComparison, ComparedRate, ComparePart
from testbed.core.site import Target, Where

Role = Literal["all", "sign", "exponent", "mantissa", "magnitude", "word"]


class SitePairing(ComparePart):
    """Which sites and rows both sides have."""

    by: list[str] = Field(description="columns that make a row of A pair with one of B")
    sites: int = Field(description="sites of both")
    sites_only_a: int = Field(description="sites of A alone")
    sites_only_b: int = Field(description="sites of B alone")
    faults: int = Field(description="faults that pair")
    rows: int = Field(description="rows that pair")


class SampleSize(ComparePart):
    """What a rate rests on."""

    faults: int = Field(description="faults: clusters of rows")
    rows: int = Field(description="number of rows")


class RateDifference(ComparePart):
    """A - B, with its interval."""

    value: float = Field(description="the difference")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")


class ComparedSides(ComparePart):
    """A rate on both sides."""

    a: ComparedRate | None = Field(description="of A; null where it has no such fault")
    b: ComparedRate | None = Field(description="of B; null where it has no such fault")
    difference: RateDifference | None = Field(description="A - B; null where one is missing")


class ComparedMeasures(ComparePart):
    """The rates of both sides, by measure."""

    sdc1: ComparedSides | None = Field(description="another top-1; null without classes")
    outside: ComparedSides = Field(description="outside the tolerance")
    nonfinite: ComparedSides = Field(description="a NaN or infinity in the output")
    detected: ComparedSides | None = Field(
        default=None, description="an alarm of the engine's own checks; left out where neither side has any"
    )

    @property
    def by_measure(self) -> dict[str, ComparedSides | None]:
        measures = {"sdc1": self.sdc1, "outside": self.outside, "nonfinite": self.nonfinite}
        return measures if self.detected is None else {**measures, "detected": self.detected}


class PairEvents(ComparePart):
    """Rows that pair, by which sides have the event."""

    both: int = Field(description="on both sides")
    only_a: int = Field(description="in A alone")
    only_b: int = Field(description="in B alone")
    neither: int = Field(description="on neither")


class MeasureEvents(ComparePart):
    """The rows that pair, by measure and by which sides have the event."""

    sdc1: PairEvents | None = Field(None, description="another top-1; not there without classes")
    outside: PairEvents = Field(description="outside the tolerance")
    nonfinite: PairEvents = Field(description="a NaN or infinity in the output")


class PairedRates(ComparePart):
    """The faults that pair, of one role."""

    faults: int = Field(description="faults that pair")
    rows: int = Field(description="rows that pair")
    bits_a: list[int] = Field(description="bits of these, in A")
    bits_b: list[int] = Field(description="bits of these, in B")
    rates: ComparedMeasures = Field(description="rates of these")
    events: MeasureEvents = Field(description="rows by which sides have the event")


class RoleRecord(ComparePart):
    """The rates of one role of the bit, at the sites and images of both."""

    target: Target = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    op: str = Field(description="the operation, with its pattern and scope")
    format_a: str = Field(description="number format of the sites in A")
    format_b: str = Field(description="number format of the sites in B")
    role: Role = Field(description="`all`, `sign`, `exponent`, `mantissa`, `magnitude`, or `word` for a whole one")
    a: SampleSize | None = Field(description="what A's rates rest on; null where it has no such fault")
    b: SampleSize | None = Field(description="what B's rates rest on; null where it has no such fault")
    rates: ComparedMeasures = Field(description="rates of both sides, as independent samples")
    paired: PairedRates | None = Field(description="of the faults that pair; null where none do, and for `all`")


class PrecisionComparison(CampaignComparison):
    """One fault model in two precisions."""

    mode: Literal["precisions"] = Field(description="`precisions`: across two")
    pairing: SitePairing = Field(description="which sites and rows both have")
    method: str = Field(description="how the numbers are made, in words")
    roles: list[RoleRecord] = Field(description="per target, place, operation, pair of formats and role")
