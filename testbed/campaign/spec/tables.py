"""The tables of a spec that say how a model is run and judged, each by itself: tiers, engine, gates, tolerance, exposure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from testbed.analysis.outputs.confidence import TierEdges
from testbed.campaign.spec.fields import AtMost, Complaint, Count, NonNegative, Positive, Strict, WholeNumber, refuse
from testbed.core.errors import EngineError, UsageError
from testbed.core.formats import FORMATS, PRECISIONS
from testbed.core.words.nearest import unknown
from testbed.engines.backends import check_engine, is_known_engine, known_engines
from testbed.engines.plugins import ENGINE_NAME
from testbed.export.calibration import TRAIN
from testbed.export.precision import CALIBRATION_METHODS, Calibration
from testbed.instrument.ports.feed import GATED_REPLACE, MECHANISMS

_MOST_TIERS = 100
_MOST_IMAGES = 1_000_000
_NAMED_ARE_HELD = "the images that faults strike are named and held one by one"


class TierSpec(Strict):
    """Confidence tiers: correctly classified test images by the margin p1 - p2 of their softmax."""

    edges: tuple[float, ...] = Field(
        default=(0.25, 0.5, 0.75, 1.0),
        max_length=_MOST_TIERS,
        description="Upper edge of each tier, rising. An image on an edge belongs to the tier below it.",
    )
    images: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AtMost(_MOST_IMAGES, _NAMED_ARE_HELD)] = Field(
        default=(16, 16, 16, 16),
        description="Number of images named in each tier, on which faults are run: a random choice with the tier's "
        "classes in proportion, which follows from the seed. A tier that has fewer gives all it has, with a "
        "warning.",
    )
    thin: Count = Field(
        default=16,
        description="A tier with fewer images than this, or than asked for, is marked as thin in tables and on the page.",
    )
    exact: bool = Field(
        default=False, description="Refuse to run where a tier has fewer images than `images` asks for."
    )

    @model_validator(mode="after")
    def _one_count_per_tier(self) -> TierSpec:
        refuse(self._complaints())
        return self

    def _complaints(self) -> Iterator[Complaint]:
        try:
            TierEdges(self.edges)
        except UsageError as error:
            yield Complaint("edges", str(error))
        if len(self.images) != len(self.edges):
            yield Complaint("images", f"names {len(self.images)} tiers, edges {len(self.edges)}")
        if sum(self.images) < 1:
            yield Complaint("images", "asks for no image at all")
        if sum(self.images) > _MOST_IMAGES:
            yield Complaint("images", f"asks for more than {_MOST_IMAGES:,} in all: {_NAMED_ARE_HELD}")


def _any_engine(schema: dict[str, Any]) -> None:
    """Let editors complete the engines that are known here, and mark none wrong that another package may register."""
    del schema["type"]
    schema["anyOf"] = [{"enum": known_engines()}, {"type": "string", "pattern": ENGINE_NAME}]


class EngineSpec(Strict):
    """The compiled engine. Batch and threads are frozen with the campaign: they decide the last bits of an output."""

    backend: str = Field(
        default="ort-cpu",
        json_schema_extra=_any_engine,
        description="Name of the engine; `testbed doctor` says which of them work here.",
    )
    precision: str = Field(
        default="fp32", json_schema_extra={"enum": list(PRECISIONS)}, description="Number format of the deployed model."
    )
    batch: Annotated[WholeNumber | Literal["auto"], AtMost(8192, "the images of one inference are held at once")] = (
        Field(default=64, description='Images per inference. "auto": measured when the campaign begins, then kept.')
    )
    threads: Annotated[WholeNumber | Literal["auto"], AtMost(1024, "no machine has so many cores for one engine")] = (
        Field(default=1, description='Threads per engine. "auto": measured when the campaign begins, then kept.')
    )
    unit: Annotated[WholeNumber | None, AtMost(1_000_000, "a unit's rows are held until it is done")] = Field(
        default=None,
        description="Rows of one unit of work: the most that a killed process can lose. About five seconds' worth unless "
        "stated; units of less than a quarter of a second are handed out several at a time, to that length.",
    )
    evaluation: Literal["fastest", "whole"] = Field(
        default="fastest",
        description='"fastest": computes only what a fault can change, where a gate showed that the bits are the same. '
        '"whole": runs the whole engine for every fault.',
    )
    ports: str = Field(
        default=GATED_REPLACE,
        json_schema_extra={"enum": list(MECHANISMS)},
        description='How activations are changed in the twin: "gated_replace" (standard operators of any opset), "xor" '
        '(standard operators of opset 26) or "op" (one custom operator, the fastest). All three give the same '
        "bits.",
    )
    calibration_images: Annotated[WholeNumber, AtMost(1_000_000, "the ranges of int8 settle long before")] = Field(
        default=256,
        description="Number of training images that int8 is calibrated on: a random choice with the classes in "
        "proportion.",
    )
    calibration_method: str = Field(
        default="MinMax",
        json_schema_extra={"enum": list(CALIBRATION_METHODS)},
        description="How int8 ranges follow from the calibration images: a method of ONNX Runtime's static quantisation.",
    )
    calibration_data: str = Field(
        default=TRAIN,
        description='Where those images are from: "train", the training images of the model\'s data set, or another data '
        'set, such as "imagefolder:cifar10/train".',
    )

    @property
    def calibration(self) -> Calibration:
        return Calibration(self.calibration_images, self.calibration_method, self.calibration_data)

    @property
    def sketched_batch(self) -> int:
        """A batch to sketch the engine with before it is tuned."""
        return 32 if self.batch == "auto" else int(self.batch)

    @property
    def sketched_threads(self) -> int:
        return 1 if self.threads == "auto" else int(self.threads)

    @model_validator(mode="after")
    def _known(self) -> EngineSpec:
        refuse(self._complaints())
        return self

    def _complaints(self) -> Iterator[Complaint]:
        if not is_known_engine(self.backend):
            yield Complaint("backend", unknown("engine", self.backend, known_engines()))
            if self.precision not in FORMATS:
                yield Complaint("precision", unknown("precision", self.precision, FORMATS))
        else:
            try:
                check_engine(self.backend, self.precision)
            except UsageError as error:
                yield Complaint("precision", str(error))
            except EngineError as error:  # of another package, and broken
                yield Complaint("backend", str(error))
        if self.ports not in MECHANISMS:
            yield Complaint("ports", unknown("ports", self.ports, MECHANISMS))
        elif self.backend == "openvino" and self.ports != GATED_REPLACE:
            yield Complaint(
                "ports", f"openvino has no operator for {self.ports!r}; set engine.ports = {GATED_REPLACE!r}"
            )


class GateSpec(Strict):
    """Checks that must hold before the first fault is run. Where one does not, the exit status is 3."""

    test_accuracy: float = Field(
        default=0.0, ge=0, le=1, description="Least share of the test images that the model must classify correctly."
    )
    parity_max_abs: Positive | None = Field(
        default=None,
        description="Largest deviation of the plain engine's outputs from the reference golden. Unless stated it follows "
        "from the precision: a share of the largest output (fp32 1e-5, fp16 0.02, bf16 0.1, int8 0.5), and at "
        "least 1e-4.",
    )
    drift_max_abs: Positive | None = Field(
        default=None,
        description="Largest deviation of the twin's outputs from the plain engine's. Unless stated it follows from the "
        "precision: a share of the largest output (fp32 1e-6, fp16 0.02, bf16 0.1, int8 0.2), and at least "
        "1e-5.",
    )
    zero_fault_rows: Annotated[WholeNumber, AtMost(100_000, "they are run before the campaign's first fault")] = Field(
        default=1024,
        description="Activation faults per target that change nothing, run before the first real one; each output must "
        "equal the engine golden in every bit. Weights have one per tensor.",
    )
    allow_chance_accuracy: bool = Field(
        default=False,
        description="Go on with a warning where the model gets no more test images right than guessing does. Else that is "
        "refused: its preprocessing or its order of classes is mostly wrong.",
    )


class AttentionSpec(Strict):
    """Which attention module sections with `target = "attention"` strike."""

    block: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Number of the block whose attention module is compiled on its own, as site names have it; the first that "
        "has one unless stated.",
    )


OnDetected = Literal["none", "rerun", "reload"]


class ProtectionSpec(Strict):
    """What follows an alarm of a protected model's own checks. Needs a model whose checks raise alarms."""

    on_detected: OnDetected = Field(
        default="none",
        description='"rerun": the image is run again, the weights as they are: a fault that lasted one inference is gone, '
        'one in a weight is still there. "reload": the weights are restored first. Both are really run, and rows say in '
        '`recovered` what came of it. "none": nothing is run again.',
    )


class ToleranceSpec(Strict):
    """A fault is masked where every output element y has |y - golden| <= atol + rtol * |golden|."""

    atol: NonNegative | tuple[NonNegative, ...] = Field(
        default=1e-6, description="Absolute tolerance: one, or one per tier."
    )
    rtol: NonNegative = Field(default=1e-5, description="Relative tolerance.")
    rtol_grid: tuple[NonNegative, ...] = Field(
        default=(0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
        max_length=1000,
        description="Relative tolerances at which each row stores the smallest atol that masks its fault, for `testbed "
        "sweep`.",
    )

    def per_tier(self, tiers: int) -> tuple[float, ...]:
        return self.atol if isinstance(self.atol, tuple) else (self.atol,) * tiers


class ExposureSpec(Strict):
    """How much each site is exposed to faults: turns rates into contributions to a failure rate."""

    sites: dict[str, NonNegative] = Field(
        min_length=1,
        description='Weight per site pattern, such as `"block.*.attn.softmax" = 0.5`: resident bits x time x raw failure '
        "rate, for example. Of several patterns that match a site the last one counts.",
    )
    per_bit: bool = Field(
        default=False,
        description="The weights are per bit: each is multiplied by the number of bits of the site's tensor.",
    )
    unit: str = Field(default="FIT", description="Unit of the contributions, as tables and the page print it.")
