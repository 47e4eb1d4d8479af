"""What an analysis in class space is asked for, and what it would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.sensitivity.class_space.explain.curves import ExplainedClass
from testbed.sensitivity.class_space.probe import SHOTS, ProbePosition, ProbePositions

Analysis = Literal["identifiability", "memories", "perturbation", "explanation", "probe"]
ANALYSES: tuple[Analysis, ...] = ("identifiability", "memories", "perturbation", "explanation", "probe")


@dataclass(frozen=True)
class ClassSpaceSettings:
    """What is measured, on how many test images (each a random choice with the classes in proportion).

    analyses: None for all that the model and its data allow. images: of identifiability, memories and perturbation, None
    for all. baseline_images: of these, for the model with random weights. masks: "imagenet-s" or a folder
    (`masks.patch_masks`). data: a data set that holds training images for the probes, where the model's has test images
    only. positions: token positions that are probed (`probe.probe_positions`).
    """

    analyses: tuple[Analysis, ...] | None = None
    images: int | None = None
    baseline_images: int = 1000
    explain_images: int = 256
    probe_images: int = 1000
    shots: int = SHOTS
    positions: ProbePositions | tuple[ProbePosition, ...] = "auto"
    explained: ExplainedClass = "true"
    masks: str | None = None
    data: str | None = None
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for analysis in self.analyses or ():
            if analysis not in ANALYSES:
                raise UsageError(unknown("analysis", analysis, ANALYSES))


@dataclass(frozen=True)
class PlannedAnalysis:
    """``images`` test images, each run ``passes`` times or as often (parts of runs count as much as they run)."""

    analysis: Analysis
    images: int
    passes: float


@dataclass(frozen=True)
class ClassSpacePlan:
    """What a study would run, and which analyses the model or its data do not allow, with the reason. probe_positions: of
    the probes; empty without probes."""

    run: str
    data: str
    classes: tuple[str, ...]
    batch: int
    analyses: tuple[PlannedAnalysis, ...]
    left_out: dict[str, str]
    probe_positions: tuple[ProbePosition, ...]


def analyses_named(names: Sequence[str]) -> tuple[Analysis, ...]:
    """The analyses of these names, each once. Raises UsageError for one that is none."""
    chosen: list[Analysis] = []
    for name in names:
        match = next((analysis for analysis in ANALYSES if analysis == name), None)
        if match is None:
            raise UsageError(unknown("analysis", name, ANALYSES))
        chosen.append(match)
    return tuple(dict.fromkeys(chosen))
