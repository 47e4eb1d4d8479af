"""The form of a bit-error-rate sweep: what `testbed campaign ber --json` prints, and the table and the Python API read."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from testbed.campaign.gate_facts import LeftOut
from testbed.core.folder.forms import Form


class BitErrorPart(Form):
    """A part of a bit-error-rate sweep."""

    model_config = ConfigDict(extra="forbid")


class FlipCount(BitErrorPart):
    """How many bits flipped, over the repeats of one rate."""

    mean: float = Field(description="on average")
    least: int = Field(description="in the repeat with the fewest")
    most: int = Field(description="in the repeat with the most")


class RateOverRepeats(BitErrorPart):
    """A share of images, over the repeats of one rate."""

    rate: float = Field(description="the share, weighed by how probable repeats with flips are")
    low: float = Field(description="lower end of its interval, over repeats")
    high: float = Field(description="upper end")
    high_95: float = Field(description="what it is below with 95 % confidence, one-sided")
    high_99: float = Field(description="the same with 99 % confidence")
    per_repeat: list[float] = Field(description="the share in each repeat")


class BitErrorRate(BitErrorPart):
    """What is left at one bit-error rate."""

    rate: float = Field(description="probability of each bit to flip")
    flips: FlipCount = Field(description="bits that flipped")
    accuracy: RateOverRepeats = Field(description="right top-1, by the labels, with or without an alarm")
    sdc1: RateOverRepeats = Field(description="another top-1 than without flips, of which no alarm told")
    nonfinite: RateOverRepeats = Field(description="a NaN or infinity in the output")
    detected: RateOverRepeats | None = Field(
        default=None, description="an alarm of the engine's own checks; left out of an engine that has none"
    )


class FlippedEngine(BitErrorPart):
    """The engine whose weights were flipped."""

    backend: str = Field(description="its backend")
    precision: str = Field(description="its precision")
    batch: int = Field(description="its batch size")
    hash: str = Field(description="its hash")
    deployment_id: str = Field(description="id of the plain ONNX file")
    options: dict[str, Any] = Field(description="what it was built with")


class BitErrorRecord(BitErrorPart):
    """Accuracy against the bit-error rate of the weights."""

    name: str = Field(description="name of the campaign")
    engine: FlippedEngine = Field(description="the engine")
    left_out: list[LeftOut] = Field(description="weights that cannot be flipped here, with the reason")
    classes: dict[str, int] = Field(description="images of each class")
    images: int = Field(description="test images that were asked about")
    accuracy: float = Field(description="accuracy without flips")
    sites: list[str] = Field(description="the weights whose bits flip")
    bits: int = Field(description="how many bits these hold")
    repeats: int = Field(description="sets of flips per rate")
    seed: int = Field(description="seed of the flips")
    confidence: float = Field(description="of every interval")
    rates: list[BitErrorRate] = Field(description="what is left at each rate")
