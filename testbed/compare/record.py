"""What every comparison tells: the two sides, and each one's SDC-1 rates."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_serializer

from testbed.campaign.spec.tables import EngineSpec
from testbed.core.folder.forms import Form
from testbed.core.site import Where


class ComparePart(Form):
    """A part of a comparison."""

    model_config = ConfigDict(extra="forbid")


class ComparedTolerance(ComparePart):
    """What a side's outputs were judged by."""

    atol: list[float] = Field(description="absolute tolerance of each tier")
    rtol: float = Field(description="relative tolerance")


class ComparedCampaign(ComparePart):
    """One side: what ran."""

    folder: str = Field(description="its run folder")
    name: str = Field(description="name of the campaign")
    seed: int = Field(description="seed of the campaign")
    engine: EngineSpec = Field(description="the engine, with the keys of the spec's `[engine]` table")
    engine_hashes: list[str] = Field(description="hashes of the engines in which faults were run")
    deployment_ids: list[str] = Field(description="ids of the plain ONNX files")
    tolerance: ComparedTolerance = Field(description="what its outputs were judged by")
    detector: str = Field(description="what noticed faults")
    images: int = Field(description="named images")
    faults: int = Field(description="number of faults")
    rows: int = Field(description="number of rows: fault x image")

    @field_serializer("engine")
    def _every_key(self, engine: EngineSpec) -> dict[str, Any]:
        return engine.model_dump(mode="json")


class HeadlineRate(ComparePart):
    """SDC-1 of one fault model of the whole model."""

    where: Where = Field(description="of the fault model: `activation` or `weight`")
    op: str = Field(description="of the fault model, with what tells it from others of this place")
    rate: float = Field(description="rate of SDC-1")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    high_95: float = Field(description="what the rate is below with 95 % confidence, one-sided")
    high_99: float = Field(description="the same with 99 % confidence")
    faults: int = Field(description="faults: clusters of rows")
    n: int = Field(description="number of rows")
    bits: int = Field(description="bits that can be hit, as the sites hold them")
    sdc1_bits: float = Field(description="of these, how many change the top-1, as expected")
    sdc1_bits_low: float = Field(description="lower end of its interval")
    sdc1_bits_high: float = Field(description="upper end")


class Headline(ComparePart):
    """The SDC-1 rates of both sides; empty where the model as a whole was not hit."""

    a: list[HeadlineRate] = Field(description="of side A, a fault model each")
    b: list[HeadlineRate] = Field(description="of side B, a fault model each")


class CampaignComparison(ComparePart):
    """Two campaigns of one model, side by side."""

    mode: Literal["engines", "precisions"] = Field(
        description="`engines` within one precision, `precisions` across two"
    )
    a: ComparedCampaign = Field(description="what ran on side A")
    b: ComparedCampaign = Field(description="what ran on side B")
    confidence: float = Field(description="of every interval: that of A")
    headline: Headline = Field(description="the SDC-1 rates of both sides")
    notes: list[str] = Field(
        description="what else differs, so that it is not taken for the engine's or precision's doing"
    )


class ComparedRate(ComparePart):
    """A weighted share of rows, with its interval. Bounds are null in records of earlier versions."""

    rate: float = Field(description="the share")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    high_95: float | None = Field(default=None, description="what it is below with 95 % confidence, one-sided")
    high_99: float | None = Field(default=None, description="the same with 99 % confidence")
