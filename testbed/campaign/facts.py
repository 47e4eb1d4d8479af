"""What each stage of a campaign reports of itself in the manifest, typed: nobody reads a fact that was not checked.

A manifest of before checksums can say anything; one with them can have been written by a program of another version. So
the facts of all stages are held to these forms when a folder is opened. Facts that later versions add are let through.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from testbed.campaign.cache_note import CacheNote
from testbed.campaign.described import AbsentSite, PictureFacts
from testbed.campaign.gate_facts import GateFacts
from testbed.campaign.image_facts import ImageFacts
from testbed.campaign.stop_facts import StopFacts
from testbed.core.folder.forms import Form
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.site import Target

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


class TrainFacts(Form):
    key: str | None = None


class GoldenFacts(Form):
    """``source``, ``engine_hash``: of a golden that a user's own file gave. rows_influence: why each of its images was run
    alone; cache: where it is from, if it was not run but taken from there."""

    accuracy: _Share
    images: Annotated[int, Field(ge=1)]
    source: str | None = None
    engine_hash: str | None = None
    rows_influence: str = ""
    cache: CacheNote | None = None


class PlainGolden(Form):
    """How the plain engine gave the golden. influence: why its rows influence each other, so that each image is run alone;
    empty where nothing shows that they do."""

    engine_hash: str
    influence: str
    cache: CacheNote | None = None


class ExportFacts(Form):
    """What was changed in a user's own ONNX file when it was taken; nothing for a model that is exported here. cache: where
    the exported file is from, if it was not made but taken from there."""

    changes: list[str] = Field(default_factory=list)
    not_there: list[AbsentSite] = Field(default_factory=list)
    cache: CacheNote | None = None


class CutFacts(ExportFacts):
    """Where the attention module of a user's own file was cut out of it: the whole file's tensors at its two ends. Of a
    model that is exported here there are none."""

    block: Annotated[int, Field(ge=0)] = 0
    input: str = ""
    output: str = ""


class TuneFacts(Form):
    """Facts of the stage "tune". unit_rows: of a unit of work. why_batch: of one row that is not the spec's, why. cache:
    where it is from, if it was not measured but taken from there."""

    batch: Annotated[int, Field(ge=1, le=1_000_000)]
    threads: Annotated[int, Field(ge=1, le=100_000)]
    unit_rows: Annotated[int, Field(ge=1, le=10**12)]
    why_batch: str | None = None
    cache: CacheNote | None = None


class PlanFacts(Form):
    """``design``: of an adaptive campaign, the version of how rounds follow from one another; None of any other."""

    faults: _Count
    design: _Count | None = None


class ExecuteFacts(Form):
    """``stop``: of an adaptive campaign."""

    rows: _Count
    faults: _Count
    rows_this_process: _Count
    wall_seconds: _Seconds
    engine_seconds: _Seconds
    worker_seconds: _Seconds
    crashes: _Count
    hangs: _Count
    losses: _Count
    blamed: _Count
    refused: list[str]
    stop: StopFacts | None = None


class NoiseEngine(Form):
    """A fault-free engine of a sweep."""

    backend: str
    precision: str
    batch: Annotated[int, Field(ge=1, le=1_000_000)]
    file: Literal["plain", "twin"] = "plain"


class NoiseFacts(Form):
    """Facts of the stages "noise.*" of a sweep."""

    source: NoiseEngine
    target: Target
    engine_hash: str
    arithmetic: str
    images: _Count = 0
    other_top1: _Count | None


class LinkFacts(Form):
    """Facts of the stage "link" of a sweep. sites: the module's. ended: rows without any output, left out. checked: rows
    that were also run to the end, and whose logits are the stored ones, bit for bit. evaluated: "whole" where only the
    whole engine gives those bits."""

    sites: list[str]
    faults: _Count
    rows: _Count
    ended: _Count
    checked: _Count
    evaluated: Literal["prefix", "whole"]


class ExactFacts(Form):
    """Facts of the stage "exact" of a sweep. rows: evaluated exactly so far."""

    rows: _Count


_FORMS: dict[str, type[Form]] = {
    "train": TrainFacts,
    "golden": GoldenFacts,
    "export.model": ExportFacts,
    "export.attention": CutFacts,
    "pictures": PictureFacts,
    "tune": TuneFacts,
    "images": ImageFacts,
    "gates": GateFacts,
    "plan": PlanFacts,
    "execute": ExecuteFacts,
}


def check_facts(folder: RunFolder) -> None:
    """Raises StaleArtefact for the first stage of a campaign whose facts are not of its form, naming it and the fact."""
    for stage, form in _FORMS.items():
        if stage in folder.manifest["stages"]:
            facts_of(folder, stage, form)
