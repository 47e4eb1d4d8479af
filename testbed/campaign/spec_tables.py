"""The tables of a spec, each by itself: data, model, tiers, engine, gates, tolerance, exposure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from testbed.analysis.confidence import TierEdges
from testbed.campaign.spec_words import shown
from testbed.campaign.strict import AtMost, Complaint, Count, NonNegative, Positive, Strict, Whole, refuse
from testbed.core.errors import TestbedError, UsageError
from testbed.core.formats import FORMATS
from testbed.core.nearest import unknown
from testbed.data.class_order import kept_classes
from testbed.data.preprocess_stated import kept
from testbed.engines.runner import BACKENDS, check_engine
from testbed.export.calibration import TRAIN
from testbed.export.precision import Calibration
from testbed.instrument.feed import GATED_REPLACE, MECHANISMS

SEEDS = 2**32
_MOST_TIERS = 100
_MOST_IMAGES = 1_000_000
_NAMED_ARE_HELD = "the images that faults strike are named and held one by one"


def _kept_preprocess(asked: Any) -> Any:
    """What was stated, by its values; left to pydantic where it is neither text nor a table."""
    try:
        return kept(asked) if isinstance(asked, (str, dict)) else asked
    except TestbedError as error:
        raise ValueError(str(error)) from error


def _kept_classes(asked: Any) -> Any:
    """The names of a stated file; left to pydantic where it is neither text nor a list of it."""
    names = isinstance(asked, (list, tuple)) and all(isinstance(name, str) for name in asked)
    try:
        return kept_classes(asked) if names or isinstance(asked, str) else asked
    except TestbedError as error:
        raise ValueError(str(error)) from error


class DataSpec(Strict):
    """``name``: missing where the model's own run folder says it: what is stated then changes that data set.
    ``images``: only so many test images, a random choice with the classes in proportion that follows from the
    campaign's seed; all of them unless said. ``preprocess``: a preset's name, a table of values, or a file of them, of
    timm or of Hugging Face (testbed.data.preprocess_stated); the values are kept.
    ``classes``: the order of the model's outputs, where it is not the data set's: "natural", "text", the names, or a
    file of them (testbed.data.class_order); the names are kept."""

    name: str | None = None
    root: str | None = None
    preprocess: Annotated[str | dict[str, Any] | None, BeforeValidator(_kept_preprocess)] = None
    classes: Annotated[str | tuple[str, ...] | None, BeforeValidator(_kept_classes)] = None
    images: Count | None = None

    @model_validator(mode="after")
    def _root_of_a_name(self) -> DataSpec:
        if self.root is not None and self.name is None:
            raise ValueError("root is where the data set called name lies; state name, too")
        return self


class ModelSpec(Strict):
    """A preset, what is different from it, and the recipe that trains it on first use; or a trained model's folder; or
    an ONNX file of whatever origin.

    ``training``: keys of the recipe, and ``seed``: of the training and of what the data set is split by, the campaign's
    unless said. With one of its own, a new draw of faults and images is no new model.
    """

    preset: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    recipe: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    run: str | None = None
    onnx: str | None = None

    @field_validator("training")
    @classmethod
    def _seed_of_its_own(cls, training: dict[str, Any]) -> dict[str, Any]:
        seed = training.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
            refuse([Complaint("seed", f"{shown(seed)} is not a whole number from 0 to {SEEDS - 1}")])
        return training

    @property
    def recipe_changes(self) -> dict[str, Any]:
        return {key: value for key, value in self.training.items() if key != "seed"}

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        others = self.preset or self.recipe or self.overrides or self.training
        if self.onnx is not None and (others or self.run is not None):
            raise ValueError("onnx names a finished model; leave out run, preset, overrides, recipe and training")
        if self.run is not None and others:
            raise ValueError("run names a trained model; leave out preset, overrides, recipe and training")
        if self.run is None and self.onnx is None and (self.preset is None or self.recipe is None):
            raise ValueError(
                "name a preset and a recipe, or the folder of a trained model: run = DIR, or a file: onnx = FILE.onnx"
            )
        return self


class TierSpec(Strict):
    """``images`` named test images per tier: a random choice with the tier's classes in proportion, which follows from
    the campaign's seed. A tier that has fewer gives all it has, with a warning; with ``exact`` that is refused. ``thin``: a
    tier with fewer, or with fewer than asked for, is marked as thin."""

    edges: Annotated[tuple[float, ...], Field(max_length=_MOST_TIERS)] = (0.25, 0.5, 0.75, 1.0)
    images: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AtMost(_MOST_IMAGES, _NAMED_ARE_HELD)] = (16, 16, 16, 16)
    thin: Count = 16
    exact: bool = False

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


class EngineSpec(Strict):
    """``batch`` and ``threads`` are frozen with the campaign: they decide the last bits of the outputs. "auto" measures
    them when it begins. ``unit``: rows of a unit of work, what a kill can cost; about five seconds' worth unless said.
    Units that take less than a quarter of a second are handed out several at a time, to that length.
    ``evaluation``: "whole" runs the whole engine for every fault; "fastest" only what a fault can change, where the gates
    showed that it gives the same.

    ``ports``: how activations are struck (testbed.instrument.ports). ``calibration_*``: training images for int8, a random
    choice of those of the model's data set or, where it has none, of another: "imagefolder:cifar10/train".
    """

    backend: str = "ort-cpu"
    precision: str = "fp32"
    batch: Annotated[Whole | Literal["auto"], AtMost(8192, "the images of one inference are held at once")] = 64
    threads: Annotated[Whole | Literal["auto"], AtMost(1024, "no machine has so many cores for one engine")] = 1
    unit: Annotated[Whole | None, AtMost(1_000_000, "a unit's rows are held until it is done")] = None
    evaluation: Literal["fastest", "whole"] = "fastest"
    ports: str = GATED_REPLACE
    calibration_images: Annotated[Whole, AtMost(1_000_000, "the ranges of int8 settle long before")] = 256
    calibration_method: str = "MinMax"
    calibration_data: str = TRAIN

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
        if self.backend not in BACKENDS:
            yield Complaint("backend", unknown("engine", self.backend, BACKENDS))
            if self.precision not in FORMATS:
                yield Complaint("precision", unknown("precision", self.precision, FORMATS))
        else:
            try:
                check_engine(self.backend, self.precision)
            except UsageError as error:
                yield Complaint("precision", str(error))
        if self.ports not in MECHANISMS:
            yield Complaint("ports", unknown("ports", self.ports, MECHANISMS))
        elif self.backend == "openvino" and self.ports != GATED_REPLACE:
            yield Complaint(
                "ports", f"openvino has no operator for {self.ports!r}; set engine.ports = {GATED_REPLACE!r}"
            )


class GateSpec(Strict):
    """Bounds that must hold before a fault is run.

    ``parity_max_abs``: largest deviation of the plain engine's outputs from the reference golden, ``drift_max_abs``: of the
    twin's from the plain engine's; by the engine's precision unless stated (`testbed.campaign.gates.Bounds`).
    ``allow_chance_accuracy``: go on with a warning where the model gets no more test images right than guessing does; else
    it is refused, for its preprocessing or order of classes is wrong.
    """

    test_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.0
    parity_max_abs: Positive | None = None
    drift_max_abs: Positive | None = None
    zero_fault_rows: Annotated[Whole, AtMost(100_000, "they are run before the campaign's first fault")] = 1024
    allow_chance_accuracy: bool = False


class ToleranceSpec(Strict):
    """An output element is right iff |y - golden| <= atol + rtol * |golden|. One ``atol``, or one per tier."""

    atol: NonNegative | tuple[NonNegative, ...] = 1e-6
    rtol: NonNegative = 1e-5
    rtol_grid: Annotated[tuple[NonNegative, ...], Field(max_length=1000)] = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)

    def per_tier(self, tiers: int) -> tuple[float, ...]:
        return self.atol if isinstance(self.atol, tuple) else (self.atol,) * tiers


class ExposureSpec(Strict):
    """How much each site is exposed: what turns rates into contributions to a failure rate.

    ``sites``: site pattern -> weight, such as bits resident x time x raw failure rate; of several patterns that match a
    site the last one counts. ``per_bit``: weights are per bit, to be multiplied by the bits of the site's tensor.
    ``unit``: of the contributions.
    """

    sites: Annotated[dict[str, NonNegative], Field(min_length=1)]
    per_bit: bool = False
    unit: str = "FIT"
