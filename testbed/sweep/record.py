"""The form of ``sweep.json``: what a sweep found, as the report, the tables and the Python API read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, TypeVar

from pydantic import Field

from testbed.analysis.outputs.confidence import interval_name
from testbed.campaign.summary.record import ToleranceRecord
from testbed.core.fault import FaultModel, Scope
from testbed.core.outcome import Event
from testbed.core.site import Target, Where
from testbed.sweep.noise_sources import EngineFile
from testbed.sweep.points import (
    DetectionRecord,
    EngineRecord,
    EventAdvice,
    EventAreas,
    RocCurve,
    SourceAlarms,
    SweepPart,
    TierNoise,
    TolerancePoint,
)

LinkRate = Literal["sensitivity", "specificity", "ppv", "npv"]


class FaultModelRecord(SweepPart):
    """A fault model."""

    target: Target = Field(description="of the fault model: `model` or `attention`")
    where: Where = Field(description="of the fault model: `activation` or `weight`")
    op: str = Field(description="of the fault model, with what tells it from others of this target and place")
    pattern: str = Field(description="of the fault model: `single`, or the words that are hit together")
    scope: Scope = Field(description="of the fault model: `inference` or `persistent`")

    @classmethod
    def of(cls, model: FaultModel) -> FaultModelRecord:
        return cls.model_validate(model.to_json())

    @property
    def model_key(self) -> tuple[str, ...]:
        """What no rate mixes."""
        return self.target, self.where, self.op, self.pattern, self.scope


class SweptModel(FaultModelRecord):
    """A fault model, and the images of one tier or all."""

    tier: int | None = Field(description="tier of the images; null for all images")
    n_rows: int = Field(description="number of rows")
    n_faults: int = Field(description="faults: clusters of rows")


class TierCurves(SweptModel):
    """What every tolerance detects and alarms at, of one fault model and tier."""

    n_sdc1: int | None = Field(description="rows with another top-1; null without classes")
    n_corrupted: int = Field(description="rows that are not bit-identical, or without output")
    n_ended: int = Field(description="rows of crashes and hangs")
    n_detected: int | None = Field(
        default=None,
        description="rows with an alarm of the engine's own checks: known already, so part of no event; left out where there"
        " are none",
    )
    reasons: dict[Event, str] = Field(description="why there are no rates of an event, where there are none")
    noise: list[TierNoise] = Field(description="the fault-free engines, the campaign's own plain one first")
    grid: list[TolerancePoint] = Field(description="a point for every tolerance")
    roc: list[RocCurve] = Field(description="a curve for every fault-free engine, at the main relative tolerance")
    auc: EventAreas = Field(description="areas under the ROC curves")
    recommended: EventAdvice = Field(description="the tolerances to use")


class LinkPoint(SweepPart):
    """ "The module's output is out of tolerance" as a test for "the top-1 changes", at one tolerance."""

    atol: float = Field(description="absolute tolerance")
    rtol: float = Field(description="relative tolerance")
    sensitivity: DetectionRecord | None = Field(description="out of tolerance, of those that change the top-1; or null")
    specificity: DetectionRecord | None = Field(description="within tolerance, of those that do not change it; or null")
    ppv: DetectionRecord | None = Field(description="change the top-1, of those out of tolerance; or null")
    npv: DetectionRecord | None = Field(description="do not change it, of those within tolerance; or null")

    @property
    def rates(self) -> dict[LinkRate, DetectionRecord | None]:
        return {
            "sensitivity": self.sensitivity,
            "specificity": self.specificity,
            "ppv": self.ppv,
            "npv": self.npv,
        }


class LinkedModel(SweptModel):
    """The link, of one fault model and tier."""

    n_sdc1: int = Field(description="rows with another top-1")
    grid: list[LinkPoint] = Field(description="a point for every tolerance")


class ModuleFloor(SweepPart):
    """The smallest absolute tolerance of the module's output without a false alarm, at one relative one."""

    rtol: float = Field(description="relative tolerance")
    smallest_atol: float | None = Field(description="the smallest without a false alarm; null where each raises one")


class ModuleNoise(EngineRecord):
    """How far a fault-free engine of the module on its own is from the reference golden."""

    n: int = Field(description="images it was measured on")
    floors: list[ModuleFloor] = Field(description="its floor at every relative tolerance")


class LinkRecord(SweepPart):
    """Faults of the first attention module, followed on to the logits."""

    module: str = Field(description="the module")
    output: str = Field(description="the tensor that is its output")
    limit: int | None = Field(description="faults to follow at most; null for all")
    sites: list[str] = Field(description="the module's tensors")
    faults: int = Field(description="faults that were followed")
    rows: int = Field(description="rows that were followed")
    ended: int = Field(description="rows of crashes and hangs, which were not")
    checked: int = Field(description="rows that were also run to the end, and whose logits are the stored ones")
    evaluated: Literal["prefix", "whole"] = Field(
        description="`prefix`, or `whole` where only the whole engine gives those bits"
    )
    models: list[LinkedModel] = Field(description="the link of every fault model and tier")
    noise: list[ModuleNoise] = Field(description="fault-free engines of the module on its own")


class NoiseSource(SweepPart):
    """A fault-free engine that was measured."""

    target: Target = Field(description="`model` or `attention`")
    source: str = Field(description="the engine, in words")
    engine: str = Field(description="its backend")
    precision: str = Field(description="its precision")
    batch: int = Field(description="its batch size")
    file: EngineFile = Field(description="`plain`, as deployed, or `twin`, with its ports idle")
    arithmetic: str = Field(description="what it computes in, where that is not its precision")
    engine_hash: str = Field(description="hash of the engine")
    n: int = Field(description="images it was measured on")
    other_top1: int | None = Field(description="images with another top-1 than the golden's; null without classes")


class SweptRtols(SweepPart):
    """The relative tolerances."""

    swept: list[float] = Field(description="those of the grid")
    main: float = Field(description="the one that figures and tables are of")


class TierEdge(SweepPart):
    """The margins of a confidence tier."""

    tier: int = Field(description="number of the tier")
    low: float = Field(description="lower end of the margin")
    high: float = Field(description="upper end")


class SweptGoldens(SweepPart):
    """Which golden each kind of number rests on, in words."""

    false_alarm: str = Field(description="of false alarms")
    detection: str = Field(description="of detection")
    link: str = Field(description="of the link")


class AtRtol(Protocol):
    """Something at a relative tolerance."""

    @property
    def rtol(self) -> float: ...


AtSomeRtol = TypeVar("AtSomeRtol", bound=AtRtol)


class SweepRecord(SweepPart):
    """A sweep of a finished campaign."""

    name: str = Field(description="name of the campaign")
    version: int = Field(description="version of this form")
    confidence: float = Field(description="of every interval")
    wanted_detection: float = Field(description="the detection rate wanted")
    tolerance: ToleranceRecord = Field(description="the campaign's own")
    atol: list[float] | None = Field(description="the absolute tolerances asked for; null for the default grid")
    rtol: SweptRtols = Field(description="the relative tolerances")
    tier_edges: list[TierEdge] = Field(description="the confidence tiers")
    goldens: SweptGoldens = Field(description="which golden each kind of number rests on")
    definitions: dict[str, str] = Field(description="what the words of this file mean")
    sources: list[NoiseSource] = Field(description="the fault-free engines")
    notes: list[str] = Field(description="engines that were not measured, and why")
    false_alarms: list[SourceAlarms] = Field(description="false alarms of every fault-free engine")
    tiers: list[TierCurves] = Field(description="curves of every fault model, over all images and per tier")
    link: LinkRecord | None = Field(
        description="the link of the first attention module; null where it was not followed"
    )

    def at_main(self, points: Iterable[AtSomeRtol]) -> list[AtSomeRtol]:
        """Those at the relative tolerance that figures and tables are of."""
        return [point for point in points if point.rtol == self.rtol.main]

    def tier_interval(self, tier: int) -> str:
        """The tier's margins, "(0.25, 0.5]"."""
        return interval_name(self.tier_edges[tier].low, self.tier_edges[tier].high)

    def whole(self, target: Target, where: Where) -> TierCurves:
        """All images, of the first fault model of this target and place."""
        return next(p for p in self.tiers if (p.target, p.where, p.tier) == (target, where, None))
