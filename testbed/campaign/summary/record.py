"""The summary of a finished campaign, ``summary.json``: made by `summarise`, read by tables, the page and trade-offs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue

from testbed.campaign.described import AbsentSite
from testbed.campaign.gate_facts import DriftFacts, EvaluationFacts, LeftOut, ParityFacts, ZeroFaultFacts
from testbed.campaign.image_facts import ChosenImages
from testbed.campaign.proofs import Proof
from testbed.campaign.stop_facts import StopFacts
from testbed.campaign.summary.exposed import ExposureRecord
from testbed.campaign.summary.part import SummaryPart
from testbed.campaign.summary.protection import ProtectionRecord
from testbed.core.errors import StaleArtefact
from testbed.core.folder.forms import read_form
from testbed.core.folder.parsing import read_json
from testbed.core.schema import READABLE_VERSIONS
from testbed.core.site import Where

_WHAT = "a campaign's summary"
_FIX = "rerun with `testbed campaign run SPEC --redo summary`"
_NonNegative = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Table = dict[str, JsonValue]


class RateRecord(SummaryPart):
    """A rate with its interval. ``high_95``, ``high_99``: one-sided upper bounds; None in summaries of earlier versions."""

    rate: _Share
    low: _Share
    high: _Share
    high_95: _Share | None = None
    high_99: _Share | None = None


class Marginal(SummaryPart):
    """The rates of one fault model, over all or by one value of a dimension.

    ``op``: the fault model's label. ``format``: of the words whose bit ``value`` is. ``rates``: by measure; None where
    it has no meaning for the target.
    """

    target: str
    where: Where
    op: str
    pattern: str = "single"
    scope: str | None = None
    by: str
    value: str | int | None
    format: str | None = None
    faults: _NonNegative
    n: _NonNegative
    rates: dict[str, RateRecord | None]

    def rate(self, measure: str) -> RateRecord | None:
        return self.rates.get(measure)


class StratumRecord(SummaryPart):
    """Counts and rates of one cell: a fault model, a tier, a site and a class of bits.

    ``op``: the fault model's label. ``n``: rows; of each outcome, and of outputs that are not finite. ``sdc1_*``: None
    where there are no classes. ``*_high_95``, ``*_high_99``: one-sided upper bounds.
    """

    target: str
    where: Where
    op: str
    pattern: str = "single"
    scope: str | None = None
    tier: int
    site: str
    kind: str
    bit_class: str | None
    n: _NonNegative
    faults: _NonNegative
    identical: _NonNegative = 0
    masked: _NonNegative = 0
    sdc_tolerable: _NonNegative = 0
    sdc1: _NonNegative = 0
    sdc: _NonNegative = 0
    due: _NonNegative = 0
    detected: _NonNegative = 0
    nonfinite: _NonNegative = 0
    sdc1_rate: _Share | None = None
    sdc1_low: _Share | None = None
    sdc1_high: _Share | None = None
    sdc1_high_95: _Share | None = None
    sdc1_high_99: _Share | None = None
    outside_rate: _Share | None = None
    outside_low: _Share | None = None
    outside_high: _Share | None = None
    outside_high_95: _Share | None = None
    outside_high_99: _Share | None = None


class RowShare(SummaryPart):
    """A number of rows, and their share of all."""

    rows: _NonNegative
    share: _Share


class EvaluatedRows(SummaryPart):
    """How the outputs of one fault model's rows were obtained, and which came to none that anybody could use."""

    target: str
    where: Where
    op: str
    pattern: str = "single"
    scope: str | None = None
    rows: _NonNegative
    how: dict[str, RowShare]
    due: dict[str, RowShare]


class SummaryModel(SummaryPart):
    """The model that was struck."""

    preset: str = ""
    parameters: _NonNegative = 0
    sha256: str = ""
    reference: str = ""
    changes: list[str] = Field(default_factory=list)
    not_there: list[AbsentSite] = Field(default_factory=list)
    test_accuracy: _Share
    test_images: _NonNegative
    no_better_than_guessing: bool = False


class SummaryData(SummaryPart):
    """The data set that the model was judged on."""

    name: str
    classes: list[str]
    preprocess: _Table = Field(default_factory=dict)
    preprocess_told: str = ""


class SummaryTier(SummaryPart):
    """A confidence tier. ``asked``: images asked for, where it has fewer."""

    tier: _NonNegative
    low: float
    high: float
    available: _NonNegative
    images: _NonNegative
    asked: _NonNegative | None = None
    thin: bool = False
    classes: dict[str, int] = Field(default_factory=dict)


class SummaryImages(SummaryPart):
    """The named images: how many, of which classes."""

    named: _NonNegative = 0
    classes: dict[str, int] = Field(default_factory=dict)


class SummaryEngine(SummaryPart):
    """The engine of the first target."""

    backend: str = ""
    hash: str = ""
    deployment_id: str
    precision: str
    batch: _NonNegative = 0
    threads: _NonNegative


class FaultyEngine(SummaryPart):
    """An engine in which faults were run."""

    target: str
    where: Where
    hash: str
    deployment_id: str = ""
    file: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, Any] = Field(default_factory=dict)


class ToleranceRecord(SummaryPart):
    """What outputs were judged by. ``atol``: per tier."""

    atol: list[float] = Field(description="absolute tolerance of each tier")
    rtol: float = Field(description="relative tolerance")
    rtol_grid: list[float] = Field(
        default_factory=list, description="relative tolerances for which rows store the smallest masking atol"
    )


class StageSeconds(SummaryPart):
    """How long a stage took."""

    stage: str
    seconds: float


class Failures(SummaryPart):
    """Runs that ended in a failure, and workers that got no work."""

    crashes: _NonNegative = 0
    hangs: _NonNegative = 0
    losses: _NonNegative = 0
    blamed: _NonNegative = 0
    refused: list[str] = Field(default_factory=list)


class Summary(SummaryPart):
    """A finished campaign: what ran, whether the gates hold, and its rates."""

    name: str
    schema_version: int | None = None
    seed: int = 0
    faults: _NonNegative
    rows: _NonNegative
    model: SummaryModel
    data: SummaryData
    tiers: list[SummaryTier]
    images: SummaryImages | None = None
    images_each: list[ChosenImages] | None = None
    engine: SummaryEngine
    engines: list[FaultyEngine]
    zero_fault: ZeroFaultFacts
    drift: DriftFacts
    parity: list[ParityFacts] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    left_out: list[LeftOut] = Field(default_factory=list)
    tolerance: ToleranceRecord
    confidence: Annotated[float, Field(gt=0, lt=1)]
    detector: str = "none"
    strata: list[StratumRecord]
    marginals: list[Marginal]
    evaluation: list[EvaluatedRows] = Field(default_factory=list)
    exposure: ExposureRecord | None = None
    protection: ProtectionRecord | None = None
    timing: list[StageSeconds]
    wall_seconds: float = 0.0
    engine_seconds: float = 0.0
    worker_seconds: float = 0.0
    scaling_efficiency: float | None = None
    failures: Failures
    stop: StopFacts | None = None
    evaluated_by: dict[str, EvaluationFacts] = Field(default_factory=dict)
    injections_per_second: float
    statement: str

    @property
    def proofs(self) -> list[Proof]:
        """Which evaluation the gates found for each target's activations and weights."""
        return [Proof.of(key, facts.to_json()) for key, facts in self.evaluated_by.items()]


def load_summary(path: Path) -> Summary:
    """Loads the summary. Raises StaleArtefact for another schema version, and for what is no summary, saying which
    value."""
    content = read_json(path, _WHAT, _FIX)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version not in READABLE_VERSIONS:
        readable = ", ".join(map(str, READABLE_VERSIONS))
        raise StaleArtefact(f"{path} has schema version {version}, this testbed reads {readable}; {_FIX}")
    return read_form(path, Summary, _WHAT, _FIX)
