"""What a sweep's record is made of: rates, points of a grid, noise floors, ROC curves, areas and advice."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from testbed.core.folder.forms import Form
from testbed.core.outcome import Event
from testbed.core.site import Target
from testbed.sweep.noise_sources import EngineFile


class SweepPart(Form):
    """A part of a sweep. Keys that another version writes are kept."""

    model_config = ConfigDict(extra="allow")


class DetectionRecord(SweepPart):
    """A weighted share of rows, with its interval."""

    rate: float = Field(description="the share")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    high_95: float | None = Field(None, description="what it is below with 95 % confidence, one-sided; null if unknown")
    high_99: float | None = Field(None, description="the same with 99 % confidence")
    n: int = Field(description="rows that it is a share of")
    faults: int = Field(description="faults of these rows: clusters")
    undecided: int = Field(
        0,
        description="rows whose error bound straddles the tolerance, for which the interval allows; only where any do",
    )


class AlarmRate(SweepPart):
    """The share of fault-free images at which a tolerance raises an alarm, with its interval."""

    rate: float = Field(description="the share")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    high_95: float | None = Field(None, description="what it is below with 95 % confidence, one-sided; null if unknown")
    high_99: float | None = Field(None, description="the same with 99 % confidence")
    n: int = Field(description="images that it is a share of")


class AlarmPoint(SweepPart):
    """False alarms of one fault-free engine at one tolerance."""

    atol: float = Field(description="absolute tolerance")
    rtol: float = Field(description="relative tolerance")
    rate: float = Field(description="share of images with an alarm")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    high_95: float | None = Field(None, description="what it is below with 95 % confidence, one-sided; null if unknown")
    high_99: float | None = Field(None, description="the same with 99 % confidence")
    n: int = Field(description="images that it is a share of")


class SourceAlarms(SweepPart):
    """False alarms of one fault-free engine at every tolerance of the grid."""

    target: Target = Field(description="`model` or `attention`")
    tier: int | None = Field(description="tier of the images; null for all images")
    source: str = Field(description="the engine, in words")
    grid: list[AlarmPoint] = Field(description="a point for every tolerance")


class FloorPoint(SweepPart):
    """The smallest absolute tolerance without a false alarm, at one relative one."""

    rtol: float = Field(description="relative tolerance")
    smallest_atol: float | None = Field(description="the smallest without a false alarm; null where each raises one")
    false_alarm_upper: float = Field(description="upper bound of the false-alarm rate there")
    detection_sdc1: DetectionRecord | None = Field(description="SDC-1 flagged there; null where there is none")
    detection_any: DetectionRecord | None = Field(
        description="corrupted outputs flagged there; null where there is none"
    )


class EngineRecord(SweepPart):
    """A fault-free engine."""

    source: str = Field(description="the engine, in words")
    engine: str = Field(description="its backend")
    precision: str = Field(description="its precision")
    batch: int = Field(description="its batch size")
    file: EngineFile = Field(description="`plain`, as deployed, or `twin`, with its ports idle")
    arithmetic: str = Field(description="what it computes in, where that is not its precision")
    engine_hash: str = Field(description="hash of the engine")


class TierNoise(EngineRecord):
    """How far one fault-free engine is from the reference golden, on the images of a tier."""

    n: int = Field(description="images it was measured on")
    floors: list[FloorPoint] = Field(description="its floor at every relative tolerance")


class TolerancePoint(SweepPart):
    """What one tolerance detects and alarms at."""

    atol: float = Field(description="absolute tolerance")
    rtol: float = Field(description="relative tolerance")
    false_alarm: AlarmRate = Field(description="false alarms of the campaign's own plain engine")
    detection_sdc1: DetectionRecord | None = Field(description="SDC-1 flagged; null where there is none")
    detection_any: DetectionRecord | None = Field(description="corrupted outputs flagged; null where there is none")


class RocPoint(SweepPart):
    """A point of a ROC curve."""

    atol: float = Field(description="absolute tolerance")
    false_alarm: float = Field(description="share of the fault-free images with an alarm")
    sdc1: DetectionRecord | None = Field(description="SDC-1 flagged; null where there is none")
    any: DetectionRecord | None = Field(description="corrupted outputs flagged; null where there is none")

    def detection(self, event: Event) -> DetectionRecord | None:
        return self.sdc1 if event == "sdc1" else self.any


class RocCurve(SweepPart):
    """Detection against the false alarms of one fault-free engine: the points at which those step."""

    source: str = Field(description="the fault-free engine, in words")
    rtol: float = Field(description="relative tolerance")
    points: list[RocPoint] = Field(description="from the largest tolerance to 0")


class AreaRecord(SweepPart):
    """The area under a ROC curve, with its interval."""

    event: Event = Field(description="what is detected: `sdc1` or `any`")
    tier: int | None = Field(description="tier of the images; null for all images")
    source: str = Field(description="the fault-free engine, in words")
    rtol: float = Field(description="relative tolerance")
    auc: float = Field(description="the area")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end")
    n: int = Field(description="rows with the event")
    faults: int = Field(description="faults of these rows: clusters")


class EventAreas(SweepPart):
    """The areas by what is detected: of every fault-free engine at the main relative tolerance, of the first at each."""

    sdc1: list[AreaRecord] = Field(description="of another top-1")
    any: list[AreaRecord] = Field(description="of any corrupted output")

    def of(self, event: Event) -> list[AreaRecord]:
        return self.sdc1 if event == "sdc1" else self.any


class AdviceRecord(SweepPart):
    """The largest absolute tolerance that detects as much as is wanted, or why there is none."""

    rtol: float = Field(description="relative tolerance")
    atol: float | None = Field(description="the largest that will do; null where there is none, or any will do")
    detection: DetectionRecord | None = Field(description="what it detects; null where no row has the event")
    no_alarm_atol: float | None = Field(description="the smallest without a false alarm; null where each raises one")
    feasible: bool = Field(description="it is free of false alarms")
    reason: str | None = Field(description="why there is no such tolerance, or why it is not free of false alarms")


class EventAdvice(SweepPart):
    """The tolerances to use, by what is detected."""

    wanted: float = Field(description="the detection rate wanted")
    sdc1: list[AdviceRecord] = Field(description="for another top-1, at every relative tolerance")
    any: list[AdviceRecord] = Field(description="for any corrupted output, at every relative tolerance")

    def of(self, event: Event) -> list[AdviceRecord]:
        return self.sdc1 if event == "sdc1" else self.any


def detection_of(point: FloorPoint | TolerancePoint, event: Event) -> DetectionRecord | None:
    return point.detection_sdc1 if event == "sdc1" else point.detection_any
