"""What each stage of a campaign reports of itself in the manifest, typed: nobody reads a fact that was not checked.

A manifest of before checksums can say anything; one with them can have been written by a program of another version. So
the facts of all stages are held to these forms when a folder is opened. Facts that later versions add are let through.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, ValidationError

from testbed.campaign.proofs import WHOLE, EvaluatedBy, Proof
from testbed.core.errors import StaleArtefact
from testbed.core.folder.forms import Form, first_wrong
from testbed.core.folder.manifest import MANIFEST
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import Where

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
_NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Table = dict[str, JsonValue]


class TrainFacts(Form):
    key: str | None = None


class GoldenFacts(Form):
    """``source``, ``engine_hash``: of a golden that a user's own file gave. rows_influence: why each of its images was run
    alone."""

    accuracy: _Share
    images: Annotated[int, Field(ge=1)]
    source: str | None = None
    engine_hash: str | None = None
    rows_influence: str = ""


class AbsentSite(Form):
    """A site that other models have and this file has not."""

    site: str
    why: str


class ExportFacts(Form):
    """What was changed in a user's own ONNX file when it was taken; nothing for a model that is exported here."""

    changes: list[str] = Field(default_factory=list)
    not_there: list[AbsentSite] = Field(default_factory=list)


class AccuracyFacts(Form):
    model_config = ConfigDict(extra="forbid")

    value: _Share
    low: _Share
    high: _Share
    guessed: _Share
    images: _Count
    classes: _Count


class DescribedModel(Form):
    """What the summary says of the model."""

    preset: str
    parameters: _Count
    sha256: str
    reference: str
    changes: list[str]
    not_there: list[AbsentSite] = Field(default_factory=list)


class _Images(Form):
    train: _Count = 0
    validation: _Count = 0
    test: _Count


class DescribedData(Form):
    """What the summary says of the data set."""

    name: str
    classes: list[str]
    channels: _Count
    image: _Count
    images: _Images
    preprocess: _Table
    seed: int = 0
    preprocess_told: str
    source: _Table | None


class PictureFacts(Form):
    model: DescribedModel
    data: DescribedData
    accuracy: AccuracyFacts


class TuneFacts(Form):
    """Facts of the stage "tune". unit_rows: of a unit of work. why_batch: of one row that is not the spec's, why."""

    batch: Annotated[int, Field(ge=1, le=1_000_000)]
    threads: Annotated[int, Field(ge=1, le=100_000)]
    unit_rows: Annotated[int, Field(ge=1, le=10**12)]
    why_batch: str | None = None


class ParityFacts(Form):
    """How far two engines' outputs differ, and how far they may. ``top1_agreement``: None where there are no classes."""

    target: str
    pair: str
    max_abs_diff: _NonNegativeFloat
    top1_agreement: _Share | None
    bound: _NonNegativeFloat


class DriftFacts(Form):
    max_abs_diff: _NonNegativeFloat
    bound: _NonNegativeFloat


class ZeroFaultFacts(Form):
    rows: _Count
    mismatches: _Count


class LeftOut(Form):
    """A tensor that is not struck, and why."""

    target: str = ""
    site: str
    reason: str


class WeightGate(Form):
    """Which weights may be struck in place. ``compared``: tensors of which a fault in place was compared with a rebuilt
    engine; none where a rebuilt one gives other bits without any fault."""

    tensors: _Count = 0
    compared: _Count = 0
    left_out: list[LeftOut]

    def by_reason(self) -> dict[str, list[str]]:
        """Names of the sites left out, by why they are."""
        names: dict[str, list[str]] = {}
        for left_out in self.left_out:
            names.setdefault(left_out.reason, []).append(left_out.site)
        return names


class EvaluationFacts(Form):
    """A `Proof`, without the target and the place that it is of."""

    by: EvaluatedBy
    why: str | None = None
    record: _Table = Field(default_factory=dict)


class GateFacts(Form):
    parity: list[ParityFacts]
    drift: DriftFacts
    zero_fault: ZeroFaultFacts
    weights: dict[str, WeightGate] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    goldens: dict[str, str]
    evaluation: dict[str, EvaluationFacts]

    def proof(self, target: str, where: Where) -> Proof:
        """Return the proof for faults in the target's activations or weights."""
        whole = Proof(target, where, WHOLE)
        facts = self.evaluation.get(whole.key)
        return whole if facts is None else Proof(target, where, facts.by, facts.why, facts.record)

    def left_out(self, target: str) -> dict[str, str]:
        """Weights that cannot be struck rightly, and why."""
        gate = self.weights.get(target)
        return {} if gate is None else {left_out.site: left_out.reason for left_out in gate.left_out}


class PlanFacts(Form):
    faults: _Count


class DomainFacts(Form):
    """A rate that an adaptive campaign stopped for, after a round. What else is told: its values of the dimensions."""

    model_config = ConfigDict(extra="allow")

    target: str
    where: Where
    op: str
    pattern: str = "single"
    faults: _Count
    half_width: _NonNegativeFloat

    def value(self, dimension: str) -> str | int | None:
        """Raises KeyError for a dimension that the rates are not told apart by."""
        value: str | int | None = (self.model_extra or {})[dimension]
        return value


class RoundFacts(Form):
    """State after a round. ``widest``: half the widest interval, taken by itself; ``open``: rates that must still be narrowed;
    ``seconds``: since the campaign began, where it was not interrupted."""

    round: _Count
    faults: _Count
    seconds: _Seconds | None = None
    widest: float
    open: _Count
    domains: Annotated[list[DomainFacts], Field(min_length=1)]


class StopFacts(Form):
    """How an adaptive campaign came to its end: its [stop] table, and what its rounds reached."""

    margin: _NonNegativeFloat
    confidence: _Share | None
    per: str
    measure: Literal["sdc1", "outside"]
    max_faults: _Count | None = None
    max_rounds: _Count | None = None
    met: bool
    history: Annotated[list[RoundFacts], Field(min_length=1)]


def _is_stop(stop: _Table) -> _Table:
    StopFacts.model_validate(stop)
    return stop


StopTable = Annotated[_Table, AfterValidator(_is_stop)]
"""An adaptive campaign's end as it was written; `StopFacts` reads it."""


class ExecuteFacts(Form):
    """``stop``: of an adaptive campaign, as it was written; `stopped` reads it."""

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
    stop: StopTable | None = None

    @property
    def stopped(self) -> StopFacts | None:
        return None if self.stop is None else StopFacts.model_validate(self.stop)


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
