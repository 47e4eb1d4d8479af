"""What each stage of a campaign reports of itself in the manifest, typed: nobody reads a fact that was not checked.

A manifest of before checksums can say anything; one with them can have been written by a program of another version. So
the facts of all stages are held to these forms when a folder is opened. Facts that later versions add are let through.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from testbed.core.errors import StaleArtefact
from testbed.core.folder.forms import Form, first_wrong
from testbed.core.folder.runfolder import MANIFEST, RunFolder

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Table = dict[str, JsonValue]


class TrainFacts(Form):
    key: str | None = None


class GoldenFacts(Form):
    accuracy: _Share
    images: Annotated[int, Field(ge=1)]
    engine_hash: str | None = None
    rows_influence: str = ""


class ExportFacts(Form):
    changes: list[str] = Field(default_factory=list)
    not_there: list[str] = Field(default_factory=list)


class _Accuracy(Form):
    model_config = ConfigDict(extra="forbid")

    value: _Share
    low: _Share
    high: _Share
    guessed: _Share
    images: _Count
    classes: _Count


class _ModelTold(Form):
    preset: str
    parameters: _Count
    sha256: str
    reference: str
    changes: list[str]
    not_there: list[str] = Field(default_factory=list)


class _Images(Form):
    test: _Count


class _DataTold(Form):
    name: str
    classes: list[str]
    channels: _Count
    image: _Count
    images: _Images
    preprocess: _Table
    preprocess_told: str
    source: _Table | None


class PictureFacts(Form):
    model: _ModelTold
    data: _DataTold
    accuracy: _Accuracy


class TuneFacts(Form):
    """Facts of the stage "tune". unit_rows: of a unit of work. why_batch: of one row that is not the spec's, why."""

    batch: Annotated[int, Field(ge=1, le=1_000_000)]
    threads: Annotated[int, Field(ge=1, le=100_000)]
    unit_rows: Annotated[int, Field(ge=1, le=10**12)]
    why_batch: str | None = None


class _Parity(Form):
    target: str
    pair: str
    max_abs_diff: _NonNegativeFloat
    top1_agreement: _Share | None
    bound: _NonNegativeFloat


class _Drift(Form):
    max_abs_diff: _NonNegativeFloat
    bound: _NonNegativeFloat


class _ZeroFault(Form):
    rows: _Count
    mismatches: _Count


class _LeftOut(Form):
    site: str
    reason: str


class _WeightGate(Form):
    left_out: list[_LeftOut]


class _Evaluation(Form):
    by: str
    why: str | None = None
    record: _Table = Field(default_factory=dict)


class GateFacts(Form):
    parity: list[_Parity]
    drift: _Drift
    zero_fault: _ZeroFault
    goldens: dict[str, str]
    evaluation: dict[str, _Evaluation]
    weights: dict[str, _WeightGate] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class PlanFacts(Form):
    faults: _Count


class _Domain(Form):
    target: str
    where: str
    op: str
    faults: _Count
    half_width: _NonNegativeFloat


class _Round(Form):
    domains: Annotated[list[_Domain], Field(min_length=1)]


class _Stop(Form):
    per: str
    margin: _NonNegativeFloat | None
    confidence: _Share | None
    history: Annotated[list[_Round], Field(min_length=1)]


class ExecuteFacts(Form):
    faults: _Count
    rows: _Count
    rows_this_process: _Count
    wall_seconds: _Seconds
    engine_seconds: _Seconds
    worker_seconds: _Seconds
    crashes: _Count
    hangs: _Count
    losses: _Count
    blamed: _Count
    refused: list[str]
    stop: _Stop | None = None


class _NoiseSource(Form):
    backend: str
    precision: str
    batch: Annotated[int, Field(ge=1, le=1_000_000)]
    file: Literal["plain", "twin"] = "plain"


class NoiseFacts(Form):
    """Facts of the stages "noise.*" of a sweep."""

    source: _NoiseSource
    target: Literal["model", "attention"]
    engine_hash: str
    arithmetic: str
    other_top1: _Count | None


class LinkFacts(Form):
    """Facts of the stage "link" of a sweep. sites: the module's."""

    sites: list[str]


_FORMS: dict[str, type[Form]] = {
    "train": TrainFacts,
    "golden": GoldenFacts,
    "export.model": ExportFacts,
    "pictures": PictureFacts,
    "tune": TuneFacts,
    "gates": GateFacts,
    "plan": PlanFacts,
    "execute": ExecuteFacts,
}
Facts = TypeVar("Facts", bound=Form)


def check_facts(folder: RunFolder) -> None:
    """Raises StaleArtefact for the first stage of a campaign whose facts are not of its form, naming it and the fact."""
    for stage, form in _FORMS.items():
        if stage in folder.manifest["stages"]:
            facts_of(folder, stage, form)


def facts_of(folder: RunFolder, stage: str, form: type[Facts]) -> Facts:
    """Raises StaleArtefact where the stage has not run, or its facts are not of this form."""
    record: Any = folder.manifest["stages"].get(stage)
    if record is None:
        raise StaleArtefact(f"{folder.path} has no {stage!r} stage yet; run the campaign to the end first")
    try:
        return form.model_validate(record["facts"])
    except ValidationError as error:
        raise StaleArtefact(
            f"the facts of stage {stage!r} in {folder / MANIFEST} are not as it writes them ({first_wrong(error)});"
            f" {folder.again(stage)}"
        ) from error
