"""What each stage of a campaign reports of itself in the manifest, typed: nobody reads a fact that was not checked.

A manifest of before checksums can say anything; one with them can have been written by a program of another version. So
the facts of all stages are held to these forms when a folder is opened. Facts that later versions add are let through.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from testbed.core.errors import StaleArtefact
from testbed.core.runfolder import MANIFEST, RunFolder

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
_Deviation = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Table = dict[str, JsonValue]


class _Facts(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class TrainFacts(_Facts):
    key: str | None = None


class GoldenFacts(_Facts):
    accuracy: _Share
    images: Annotated[int, Field(ge=1)]
    engine_hash: str | None = None
    rows_influence: str = ""


class ExportFacts(_Facts):
    changes: list[str] = []
    not_there: list[str] = []


class _Accuracy(_Facts):
    model_config = ConfigDict(extra="forbid")

    value: _Share
    low: _Share
    high: _Share
    guessed: _Share
    images: _Count
    classes: _Count


class _ModelTold(_Facts):
    preset: str
    parameters: _Count
    sha256: str
    reference: str
    changes: list[str]
    not_there: list[str] = []


class _Images(_Facts):
    test: _Count


class _DataTold(_Facts):
    name: str
    classes: list[str]
    channels: _Count
    image: _Count
    images: _Images
    preprocess: _Table
    preprocess_told: str
    source: _Table | None


class PictureFacts(_Facts):
    model: _ModelTold
    data: _DataTold
    accuracy: _Accuracy


class TuneFacts(_Facts):
    """unit_rows: of a unit of work. why_batch: of one row that is not the spec's, why."""

    batch: Annotated[int, Field(ge=1, le=1_000_000)]
    threads: Annotated[int, Field(ge=1, le=100_000)]
    unit_rows: Annotated[int, Field(ge=1, le=10**12)]
    why_batch: str | None = None


class _Parity(_Facts):
    target: str
    pair: str
    max_abs_diff: _Deviation
    top1_agreement: _Share | None
    bound: _Deviation


class _Drift(_Facts):
    max_abs_diff: _Deviation
    bound: _Deviation


class _ZeroFault(_Facts):
    rows: _Count
    mismatches: _Count


class _LeftOut(_Facts):
    site: str
    reason: str


class _WeightGate(_Facts):
    left_out: list[_LeftOut]


class _Evaluation(_Facts):
    by: str
    why: str | None = None
    record: _Table = {}


class GateFacts(_Facts):
    parity: list[_Parity]
    drift: _Drift
    zero_fault: _ZeroFault
    goldens: dict[str, str]
    evaluation: dict[str, _Evaluation]
    weights: dict[str, _WeightGate] = {}
    notes: list[str] = []


class PlanFacts(_Facts):
    faults: _Count


class _Domain(_Facts):
    target: str
    where: str
    op: str
    faults: _Count
    half_width: _Deviation


class _Round(_Facts):
    domains: Annotated[list[_Domain], Field(min_length=1)]


class _Stop(_Facts):
    per: str
    margin: _Deviation | None
    confidence: _Share | None
    history: Annotated[list[_Round], Field(min_length=1)]


class ExecuteFacts(_Facts):
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


_FORMS: dict[str, type[_Facts]] = {
    "train": TrainFacts,
    "golden": GoldenFacts,
    "export.model": ExportFacts,
    "pictures": PictureFacts,
    "tune": TuneFacts,
    "gates": GateFacts,
    "plan": PlanFacts,
    "execute": ExecuteFacts,
}
Facts = TypeVar("Facts", bound=_Facts)


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
        first = error.errors(include_url=False, include_input=False)[0]
        fact = ".".join(map(str, first["loc"]))
        raise StaleArtefact(
            f"the facts of stage {stage!r} in {folder / MANIFEST} are not as it writes them ({fact}:"
            f" {first['msg'].lower()}); {folder.again(stage)}"
        ) from error
