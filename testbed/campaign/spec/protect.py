"""The [protect] table of a spec: what is run on the same faults once more, protected, when the campaign is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from testbed.campaign.spec.fields import AtMost, Complaint, Positive, Strict, WholeNumber, refuse
from testbed.core.protected import PASSES, PassName
from testbed.core.words.nearest import unknown
from testbed.export.calibration import TRAIN

_MOST_IMAGES = 1_000_000
_BudgetPercent = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class ProtectSpec(Strict):
    """Protects the model when its campaign is done, runs the same faults on the protected one, and compares the two. Keys are
    those of `testbed protect`; engine and precision are the campaign's. Decides no row of the plain campaign."""

    passes: tuple[PassName, ...] = Field(
        alias="with",
        min_length=1,
        description='Passes of protection: "range", "duplicate", "checksum", "nonfinite", one or several.',
    )
    where: tuple[str, ...] = Field(
        default=(),
        description='Sites of all passes (`"*.attn.v"`), or of one (`"range:*.attn.v,*.mlp.residual"`); a pass that is not '
        "named has its own.",
    )
    vote: bool = Field(
        default=False, description='For "duplicate": compute parts three times, and let the majority go on.'
    )
    margin: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)] = Field(
        default=1.3, description='For "range": how much wider than what was seen.'
    )
    nan: Literal["zero", "keep"] = Field(default="zero", description='For "range": what becomes of NaN.')
    factor: Annotated[Positive, AtMost(1e6, "no deviation would be above such a threshold")] = Field(
        default=4.0, description='For "checksum": a threshold over the largest deviation that was seen without a fault.'
    )
    activations: Literal["recompute", "range"] = Field(
        default="recompute",
        description='For "checksum": compute activation functions twice, or only hold their sums against where they lay.',
    )
    unsigned: bool = Field(
        default=False,
        description='For "checksum": int8 activations as uint8, so that ONNX Runtime keeps its fused products.',
    )
    calibration_images: Annotated[
        int, Field(ge=2), AtMost(_MOST_IMAGES, "what is seen without a fault settles long before")
    ] = Field(default=256, description="Number of training images that bounds and thresholds are measured on.")
    calibration_data: str = Field(
        default=TRAIN,
        description='Where those images are from: "train", the training images of the model\'s data set, or another data '
        'set, such as "imagefolder:cifar10/train".',
    )
    images: Annotated[WholeNumber, AtMost(_MOST_IMAGES, "no gate needs more")] = Field(
        default=1000,
        description="Number of test images that the protected file is held against before any fault is run.",
    )
    by: str | None = Field(
        default=None,
        description='What places are chosen by under `budget`: "measured", by the SDC-1 that this very campaign has there, or '
        "a score of their block, as `testbed rank --by`. Unless stated every place that `where` names is taken.",
    )
    budget: _BudgetPercent | None = Field(
        default=None, description="What protection may cost, in per cent of the plain file's. Goes with `by`."
    )
    cost: Literal["latency", "macs"] = Field(default="latency", description="What the budget is of.")
    cost_batch: Annotated[WholeNumber, AtMost(4096, "the images of one inference are held at once")] = Field(
        default=1, description="Images at a time when latency is measured."
    )

    @property
    def raises_alarms(self) -> bool:
        """Whether any pass detects, so that something can follow an alarm."""
        return any(name in ("checksum", "nonfinite") or (name == "duplicate" and not self.vote) for name in self.passes)

    @model_validator(mode="after")
    def _consistent(self) -> ProtectSpec:
        refuse(self._complaints())
        return self

    def _complaints(self) -> Iterator[Complaint]:
        for name in dict.fromkeys(self.passes):
            if self.passes.count(name) > 1:
                yield Complaint("with", f"names {name!r} more than once")
        for number, text in enumerate(self.where):
            of, colon, sites = text.partition(":")
            if not all(pattern.strip() for pattern in (sites if colon else text).split(",")):
                yield Complaint(f"where[{number}]", f"{text!r} has a pattern of no letters")
            if colon and of not in PASSES:
                yield Complaint(f"where[{number}]", unknown("pass", of, PASSES))
            elif colon and of not in self.passes:
                yield Complaint(f"where[{number}]", f"has sites of pass {of!r}, which protect.with does not name")
        if self.vote and "duplicate" not in self.passes:
            yield Complaint("vote", 'is of pass "duplicate", which protect.with does not name')
        if (self.by is None) != (self.budget is None):
            yield Complaint("by" if self.by is None else "budget", 'goes with the other: by = "measured", budget = 5')
        elif self.by is None and (self.cost != "latency" or self.cost_batch != 1):
            yield Complaint("cost", 'is of a choice of places: add by = "measured", budget = 5')

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The table with the keys of the file."""
        values = handler(self)
        passes = values.pop("with", None) or values.pop("passes")
        return {"with": passes, **values}
