"""What an adaptive campaign reports of its rounds and of its end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from testbed.core.folder.forms import Form
from testbed.core.site import Where

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


class DomainFacts(Form):
    """A rate that an adaptive campaign stopped for, after a round: of one fault model, and one value of each dimension that
    rates are told apart by; the other dimensions are not set. ``op``: the fault model's label. ``confidence``: of the
    interval, what alpha spending left this look."""

    model_config = ConfigDict(extra="allow")

    target: str
    where: Where
    op: str
    pattern: str = "single"
    scope: str | None = None
    site: str | None = None
    kind: str | None = None
    block: int | None = None
    bit: int | None = None
    bit_class: str | None = None
    tier: int | None = None
    rate: float | None = None
    low: float | None = None
    high: float | None = None
    half_width: _NonNegativeFloat
    confidence: float | None = None
    faults: _Count
    met: bool | None = None
    open: bool | None = None

    def value(self, dimension: str) -> str | int | None:
        """Raises KeyError for a dimension that the rates are not told apart by."""
        if dimension not in self.model_fields_set:
            raise KeyError(dimension)
        value: str | int | None = getattr(self, dimension)
        return value

    @property
    def relative_width(self) -> float | None:
        """Half the interval's width as a share of the rate; None of a rate of 0."""
        return self.half_width / self.rate if self.rate else None


class RoundFacts(Form):
    """State after a round. ``widest``: half the widest interval, taken by itself; ``open``: rates that must still be narrowed;
    ``seconds``: since the campaign began, where it was not interrupted."""

    model_config = ConfigDict(extra="allow")

    round: _Count
    faults: _Count
    seconds: _Seconds | None = None
    widest: float
    open: _Count
    domains: Annotated[list[DomainFacts], Field(min_length=1)]


class GainFacts(Form):
    """How many times as many faults, drawn uniformly, would have told a rate as well, by variances: ``total``, and what of it
    is due to strata, to their parts by golden value (1 where there are none), and to the allocation. None where no fault
    had an event."""

    model_config = ConfigDict(extra="allow")

    total: _NonNegativeFloat | None
    strata: _NonNegativeFloat | None
    values: _NonNegativeFloat | None
    allocation: _NonNegativeFloat | None


class StopFacts(Form):
    """How an adaptive campaign came to its end: its [stop] table, and what its rounds reached. ``widest``: half the widest
    interval in the end, taken by itself; ``gains``: of each domain of the last round, in their order."""

    model_config = ConfigDict(extra="allow")

    margin: _NonNegativeFloat
    relative: _Share | None = None
    confidence: _Share | None
    per: str
    measure: Literal["sdc1", "outside"]
    strata: str = ""
    steer: str = ""
    pilot: _Count = 0
    growth: float = 0.0
    max_rounds: _Count | None = None
    max_faults: _Count | None = None
    spending: str = ""
    proxy: str = "none"
    rounds: _Count = 0
    met: bool
    widest: float | None = None
    gains: list[GainFacts] = Field(default_factory=list)
    history: Annotated[list[RoundFacts], Field(min_length=1)]
