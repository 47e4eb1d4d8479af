"""The campaign spec: one TOML file, validated whole before anything runs. Unknown keys are refused with their path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from testbed.analysis.outputs.outcome import DETECTORS
from testbed.campaign.spec.consistency import Tables, contradictions, usual_images
from testbed.campaign.spec.errors import complaints, refusal
from testbed.campaign.spec.faults import FaultSpec
from testbed.campaign.spec.fields import ConfidenceLevel, Strict, refuse
from testbed.campaign.spec.loading import change, read_toml
from testbed.campaign.spec.protect import ProtectSpec
from testbed.campaign.spec.sources import SEEDS, DataSpec, ModelSpec
from testbed.campaign.spec.stop import StopSpec
from testbed.campaign.spec.tables import (
    AttentionSpec,
    EngineSpec,
    ExposureSpec,
    GateSpec,
    ProtectionSpec,
    TierSpec,
    ToleranceSpec,
)
from testbed.core.folder.places import near
from testbed.core.site import Target, Where
from testbed.core.words.nearest import unknown
from testbed.export.calibration import TRAIN

_LATER = (
    ("gates", "allow_chance_accuracy", False),
    ("engine", "calibration_data", TRAIN),
    ("tiers", "exact", False),
    ("protection", "on_detected", "none"),
    ("attention", "block", None),
    ("model", "output", None),
    ("model", "image_size", None),
)
"""Keys that came later, and what holds without them: a campaign that was begun before is the same campaign."""


class CampaignSpec(Strict):
    """A fault-injection campaign: the model, its images and engine, the faults, and how many of them.

    Two campaigns with equal specs (but for ``exposure`` and ``protect``), models and data have the same rows, bit for bit.
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the campaign; its run folder is `runs/NAME` unless `--run` says otherwise.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=SEEDS,
        description="Seed of every random choice: draws of faults, named images and, unless `model.training` has its own, "
        "the training.",
    )
    confidence: ConfidenceLevel = Field(default=0.95, description="Confidence of every interval that is reported.")
    detector: str = Field(
        default="none",
        json_schema_extra={"enum": list(DETECTORS)},
        description='What notices faults while the model runs. "nonfinite": a NaN or infinity in the output is noticed, '
        "and counts as DUE.",
    )
    model: ModelSpec = Field(description="The model under test.")
    data: DataSpec | None = Field(
        default=None,
        description="The data set. Not needed where `model.run` names a folder that says which data its model is for.",
    )
    tiers: TierSpec = Field(default=TierSpec(), description="Confidence tiers, and the images named in each.")
    engine: EngineSpec = Field(default=EngineSpec(), description="The compiled engine that faults are injected into.")
    gates: GateSpec = Field(default=GateSpec(), description="Checks that must hold before the first fault is run.")
    tolerance: ToleranceSpec = Field(default=ToleranceSpec(), description="Which deviations of an output are masked.")
    attention: AttentionSpec = Field(
        default=AttentionSpec(),
        description='The attention module that is struck where a section\'s target is "attention".',
    )
    protection: ProtectionSpec = Field(
        default=ProtectionSpec(), description="What follows an alarm of a protected model's own checks."
    )
    faults: tuple[FaultSpec, ...] = Field(min_length=1, description="The faults, in one or more `[[faults]]` sections.")
    exposure: ExposureSpec | None = Field(
        default=None,
        description="How much each site is exposed; turns rates into contributions to a failure rate. Decides no row.",
    )
    stop: StopSpec | None = Field(
        default=None,
        description="Makes the campaign adaptive: it draws in rounds until the rates are known well enough.",
    )
    protect: ProtectSpec | None = Field(
        default=None,
        description="Protects the model then, runs the same faults on the protected one, and says what that bought. Decides no "
        "row of the plain campaign.",
    )

    @field_validator("detector")
    @classmethod
    def _known_detector(cls, name: str) -> str:
        if name not in DETECTORS:
            raise ValueError(unknown("detector", name, DETECTORS))
        return name

    @model_validator(mode="after")
    def _consistent(self) -> CampaignSpec:
        sections = dict(enumerate(self.faults))
        names_data = self.named_data is not None
        refuse(
            contradictions(
                Tables(
                    self.model,
                    self.data,
                    self.tiers,
                    self.engine,
                    self.tolerance,
                    self.protection,
                    self.stop,
                    self.protect,
                    self.attention,
                    sections,
                    names_data,
                )
            )
        )
        return self

    @property
    def named_data(self) -> DataSpec | None:
        """The data set, where the spec names one; else it is the one that the model's run folder says."""
        return self.data if self.data is not None and self.data.name is not None else None

    @property
    def training_seed(self) -> int:
        """The seed of the model's training and of the data set's splits."""
        return int(self.model.training.get("seed", self.seed))

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets of all sections, each once, in their order."""
        return tuple(dict.fromkeys(fault.target for fault in self.faults))

    def part_of(self, target: str) -> str:
        """The target as exports and goldens write it: "attention:3" where `[attention]` says which block."""
        block = self.attention.block
        return target if target == "model" or block is None else f"{target}:{block}"

    @property
    def target_places(self) -> dict[tuple[str, Where], tuple[tuple[str, ...], ...]]:
        """(target, place) -> site patterns of each section: what one engine each is opened for."""
        legs: dict[tuple[str, Where], dict[tuple[str, ...], None]] = {}
        for fault in self.faults:
            legs.setdefault((fault.target, fault.where), {})[fault.sites] = None
        return {key: tuple(sites) for key, sites in legs.items()}

    def images_each(self, target: str, where: Where) -> int | None:
        """How many images each persistent fault of a place is run on, if there are as many; None for all.

        Raises ValueError where it is not decided yet (`auto_places`).
        """
        if (target, where) in self.auto_places:
            raise ValueError(f"on how many images faults in {where}s of {target} are run is not decided yet")
        sections = (s for s in self.faults if (s.target, s.where) == (target, where) and s.persistent)
        return next((section.images_each for section in sections), None)

    @property
    def auto_places(self) -> tuple[tuple[Target, Where], ...]:
        """(target, place) of persistent faults that are run on as many images as a pilot finds best."""
        usual = usual_images(self.stop)
        sections = (section for section in self.faults if section.persistent and (section.images or usual) == "auto")
        return tuple(dict.fromkeys((section.target, section.where) for section in sections))

    def with_images(self, chosen: Mapping[tuple[str, Where], int]) -> CampaignSpec:
        """The same with these numbers of images in place of "auto": what is planned, and no other campaign."""
        auto = {key: chosen[key] for key in self.auto_places}
        if not auto:
            return self
        faults = tuple(
            section.model_copy(update={"images": auto[section.target, section.where]})
            if section.persistent and (section.target, section.where) in auto
            else section
            for section in self.faults
        )
        return self.model_copy(update={"faults": faults})

    @property
    def plain(self) -> CampaignSpec:
        """The campaign of the plain model alone; itself where nothing is protected afterwards."""
        if self.protect is None:
            return self
        return self.model_copy(update={"protect": None, "protection": ProtectionSpec()})

    def identity(self) -> dict[str, Any]:
        """Everything that decides the rows, as JSON."""
        values = self.model_dump(mode="json", exclude={"exposure", "protect"})
        for table, key, usual in _LATER:
            if values[table][key] == usual:
                del values[table][key]
                if not values[table]:
                    del values[table]
        for section in values["faults"]:
            if section["images"] in (None, usual_images(self.stop)):
                del section["images"]
        return values


def load_spec(path: Path, changes: Sequence[str] = ()) -> CampaignSpec:
    """The spec in a file, with some values changed: "engine.backend=openvino", "tiers.images=[4,4,4,4]".

    A relative path is one of the current folder or, if nothing is there, of the spec's own.

    Raises UsageError with the path of each wrong key and the fix.
    """
    values = read_toml(path)
    for asked in changes:
        change(values, asked)
    return parse_spec(near(values, path.parent), str(path))


def parse_spec(values: dict[str, Any], name: str = "spec") -> CampaignSpec:
    """Raises UsageError with everything that is wrong. name: of the file."""
    try:
        return CampaignSpec.model_validate(values)
    except ValidationError as error:
        wrong = complaints(error, values, CampaignSpec)
        wrong += [complaint for complaint in contradictions(_right_tables(values)) if complaint not in wrong]
        raise refusal(wrong, name) from error


def _right_tables(values: dict[str, Any]) -> Tables:
    """Those of a wrong spec that are right by themselves."""

    def table(key: str) -> Any:
        field = CampaignSpec.model_fields[key]
        if key not in values:
            return field.get_default()
        return _right(field.annotation, values[key])

    stated = values.get("faults")
    sections = (
        [_right(FaultSpec, section_values) for section_values in stated] if isinstance(stated, list | tuple) else []
    )
    return Tables(
        **{
            key: None if key == "model" and key not in values else table(key)
            for key in ("model", "data", "tiers", "engine", "tolerance", "protection", "stop", "protect", "attention")
        },
        faults={number: section for number, section in enumerate(sections) if section is not None},
        names_data=not isinstance(data := values.get("data", {}), dict) or "name" in data,
    )


def _right(kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return None
