"""Numbers of images that the persistent faults of each place are run on, and what decided them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from testbed.core.folder.forms import Form
from testbed.core.site import Where

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


class ChosenImages(Form):
    """How many images each persistent fault of a place is run on, where the campaign chose it (`images = "auto"`)."""

    target: str = Field(description="`model` or `attention`")
    where: Where = Field(description="`activation` or `weight`")
    images: Annotated[int, Field(ge=1)] = Field(description="images of each fault")
    of: Annotated[int, Field(ge=1)] = Field(description="named images")
    correlation: _Share | None = Field(
        default=None,
        description="intra-cluster correlation: how alike the images of a fault are; None where too few events were seen",
    )
    fault_seconds: _Seconds | None = Field(default=None, description="what a fault takes beside its rows")
    row_seconds: _Seconds | None = Field(default=None, description="what a row takes")
    pilot_faults: _Count = Field(default=0, description="faults of the pilot, none of which counts in a rate")
    pilot_events: _Count = Field(default=0, description="of these, those with an event on some image")
    why: str = Field(description="what decided")

    @property
    def saving(self) -> float | None:
        """How many times as long all named images take for the same variance of a rate, by what the pilot measured: m images
        take ``c_fault + m c_row`` and leave ``rho + (1 - rho) / m`` of the variance of one. None where it measured nothing."""
        if self.correlation is None or self.fault_seconds is None or not self.row_seconds:
            return None
        rho, fault, row = self.correlation, self.fault_seconds, self.row_seconds
        every, own = ((fault + m * row) * (rho + (1 - rho) / m) for m in (self.of, self.images))
        return every / own

    @property
    def sentence(self) -> str:
        """The choice and its reason, for readers of rates."""
        measured = ""
        if self.correlation is not None and self.fault_seconds is not None and self.row_seconds is not None:
            measured = (
                f"rho = {self.correlation:.2g}, a fault takes {1e3 * self.fault_seconds:.3g} ms and a row"
                f" {1e3 * self.row_seconds:.3g} ms: "
            )
        worth = ""
        if self.saving is not None and self.images < self.of:
            worth = f"; all of them would take {self.saving:.2g} times as long for the same interval"
        some = f"{self.images} of the {self.of} named images, drawn for it"
        run_on = some if self.images < self.of else f"all {self.of} named images"
        return (
            f"Each persistent fault in {self.where}s of {self.target} is run on {run_on} ({measured}{self.why}{worth})."
        )


class ImageFacts(Form):
    """Facts of the stage "images"."""

    chosen: list[ChosenImages]
