"""One fault model's part of a sweep: per tier, what every tolerance detects and alarms at, ROC, areas and advice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.roc import smallest_without_alarm
from testbed.analysis.stats import proportion_bound, proportion_interval, rounded_share
from testbed.core.outcome import EVENTS, Event
from testbed.sweep.detection import Detection, DetectionRate, Tier
from testbed.sweep.floor import Floor
from testbed.sweep.points import (
    AdviceRecord,
    AlarmPoint,
    AlarmRate,
    AreaRecord,
    DetectionRecord,
    EventAdvice,
    EventAreas,
    FloorPoint,
    RocCurve,
    RocPoint,
    SourceAlarms,
    TierNoise,
    TolerancePoint,
)
from testbed.sweep.record import FaultModelRecord, TierCurves
from testbed.sweep.thresholds import Thresholds

_ROC_POINTS = 21


@dataclass(frozen=True)
class ToleranceGrid:
    """What is swept. atol: None for a logarithmic grid with the campaign's tolerance and the noise floors; rtols: of the
    spec's grid, ``main`` among them; own: the campaign's absolute tolerance of each tier."""

    atol: tuple[float, ...] | None
    rtols: tuple[float, ...]
    main: float
    own: tuple[float, ...]

    def atols(self, tier: Tier, floors: Sequence[float]) -> list[float]:
        if self.atol is not None:
            return sorted(set(self.atol))
        decades = [float(f"1e{exponent}") for exponent in range(-8, 1)]
        halves = [float(f"3e{exponent}") for exponent in range(-8, 0)]
        own = self.own if tier is None else (self.own[tier],)
        return sorted({*decades, *halves, *own, *(floor for floor in floors if 0 < floor < math.inf)})


@dataclass(frozen=True)
class Curves:
    """The curves of one target and place. floors: of the same target, the campaign's own plain engine first. wanted:
    detection rate that is asked for."""

    rows: Thresholds
    floors: Sequence[Floor]
    floor_rtols: Sequence[float]
    grid: ToleranceGrid
    confidence: float
    wanted: float

    def records(self) -> Iterator[TierCurves]:
        """Over all images (tier None), then per tier."""
        areas = self._areas()
        for tier in self.tiers:
            selected = np.ones(len(self.rows.tier), bool) if tier is None else self.rows.tier == tier
            yield TierCurves(
                **dict(FaultModelRecord.of(self.rows.fault_model)),
                tier=tier,
                n_rows=int(selected.sum()),
                n_faults=len(np.unique(self.rows.rows["fault_id"].to_numpy()[selected])),
                n_sdc1=None if self.rows.sdc1 is None else int((self.rows.sdc1 & selected).sum()),
                n_corrupted=int((self.rows.corrupted & selected).sum()),
                n_ended=int((self.rows.ended & selected).sum()),
                **self._alarms(selected),
                reasons=self._reasons(tier),
                noise=[self._noise(floor, tier) for floor in self.floors],
                grid=[self._point(tier, rtol, atol) for rtol in self.grid.rtols for atol in self._atols(tier, rtol)],
                roc=[self._roc(floor, tier) for floor in self.floors],
                auc=EventAreas(
                    sdc1=[area for area in areas if area.event == "sdc1" and area.tier == tier],
                    any=[area for area in areas if area.event == "any" and area.tier == tier],
                ),
                recommended=EventAdvice(
                    wanted=self.wanted,
                    sdc1=[self._advice("sdc1", tier, rtol) for rtol in self.grid.rtols],
                    any=[self._advice("any", tier, rtol) for rtol in self.grid.rtols],
                ),
            )

    @cached_property
    def tiers(self) -> list[Tier]:
        return [None, *np.unique(self.rows.tier).tolist()]

    def _alarms(self, selected: NDArray[np.bool_]) -> dict[str, Any]:
        """How many rows had an alarm of the engine's own checks; nothing where none has."""
        detected = self.rows.detected
        return {"n_detected": int((detected & selected).sum())} if detected.any() else {}

    # ---- what is asked of the rows

    @cached_property
    def _detections(self) -> dict[Event, Detection]:
        return {
            event: Detection(self.rows, which, self.confidence)
            for event, which in self.rows.events.items()
            if which is not None
        }

    def _detected(self, event: Event, tier: Tier, rtol: float, atol: float) -> DetectionRecord | None:
        """None where no row of the tier has the event."""
        rate = self._rate(event, tier, rtol, atol)
        return rate.to_record() if rate else None

    def _rate(self, event: Event, tier: Tier, rtol: float, atol: float) -> DetectionRate | None:
        detection = self._detections.get(event)
        return detection.at(rtol, atol).get(tier) if detection else None

    def _reasons(self, tier: Tier) -> dict[Event, str]:
        """Why there are no rates of an event, where there are none."""
        reasons: dict[Event, str] = {}
        for event in EVENTS:
            detection = self._detections.get(event)
            if detection is None:
                reasons[event] = "outputs of this target have no classes"
            elif not detection.rows(tier).any():
                what = "changed the top-1" if event == "sdc1" else "changed a bit of the output"
                what += " without an alarm of the engine's own checks" if self.rows.detected.any() else ""
                reasons[event] = f"no row of this tier {what}, so no rate of detecting it can be told"
        return reasons

    # ---- what is asked of the fault-free engines

    def _clean(self, floor: Floor, rtol: float, tier: Tier) -> NDArray[np.float64]:
        return floor.of_tier(tier)[:, self.floor_rtols.index(rtol)]

    def _atols(self, tier: Tier, rtol: float) -> list[float]:
        return self.grid.atols(tier, [self._without_alarm(floor, tier, rtol) for floor in self.floors])

    def all_atols(self, rtol: float) -> list[float]:
        """Absolute tolerances of the grids of all tiers."""
        return sorted({atol for tier in self.tiers for atol in self._atols(tier, rtol)})

    def _without_alarm(self, floor: Floor, tier: Tier, rtol: float) -> float:
        return float(self._clean(floor, rtol, tier).max(initial=0.0))

    def _false_alarm(self, floor: Floor, tier: Tier, rtol: float, atol: float) -> AlarmRate:
        clean = self._clean(floor, rtol, tier)
        alarms, n = int((clean > atol).sum()), len(clean)
        low, high = proportion_interval(alarms, n, self.confidence)
        return AlarmRate(
            rate=rounded_share(alarms / n),
            low=rounded_share(float(low)),
            high=rounded_share(float(high)),
            high_95=rounded_share(proportion_bound(alarms, n, 0.95)),
            high_99=rounded_share(proportion_bound(alarms, n, 0.99)),
            n=n,
        )

    def false_alarms(self) -> Iterator[SourceAlarms]:
        """False alarms of every fault-free engine at every tolerance of the grid, over all images and per tier."""
        for tier in self.tiers:
            for floor in self.floors:
                points = [
                    AlarmPoint(atol=atol, rtol=rtol, **dict(self._false_alarm(floor, tier, rtol, atol)))
                    for rtol in self.grid.rtols
                    for atol in self._atols(tier, rtol)
                ]
                yield SourceAlarms(target=floor.target, tier=tier, source=str(floor.source), grid=points)

    # ---- records

    def _noise(self, floor: Floor, tier: Tier) -> TierNoise:
        points = []
        for rtol in self.grid.rtols:
            clean = self._clean(floor, rtol, tier)
            atol, bound = smallest_without_alarm(clean, self.confidence)
            points.append(
                FloorPoint(
                    rtol=rtol,
                    smallest_atol=finite(atol),
                    false_alarm_upper=rounded_share(bound),
                    detection_sdc1=self._detected("sdc1", tier, rtol, atol),
                    detection_any=self._detected("any", tier, rtol, atol),
                )
            )
        return TierNoise(**dict(floor.engine), n=len(floor.of_tier(tier)), floors=points)

    def _point(self, tier: Tier, rtol: float, atol: float) -> TolerancePoint:
        return TolerancePoint(
            atol=atol,
            rtol=rtol,
            false_alarm=self._false_alarm(self.floors[0], tier, rtol, atol),
            detection_sdc1=self._detected("sdc1", tier, rtol, atol),
            detection_any=self._detected("any", tier, rtol, atol),
        )

    def _roc(self, floor: Floor, tier: Tier) -> RocCurve:
        """The ROC at the scores of the fault-free images themselves: there the false-alarm rate steps."""
        rtol = self.grid.main
        clean = self._clean(floor, rtol, tier)
        levels = np.unique(np.append(clean[np.isfinite(clean)], 0.0))
        if len(levels) > _ROC_POINTS:
            levels = levels[np.linspace(0, len(levels) - 1, _ROC_POINTS).astype(int)]
        points = [
            RocPoint(
                atol=atol,
                false_alarm=float((clean > atol).mean()),
                sdc1=self._detected("sdc1", tier, rtol, atol),
                any=self._detected("any", tier, rtol, atol),
            )
            for atol in levels[::-1].tolist()
        ]
        return RocCurve(source=str(floor.source), rtol=rtol, points=points)

    def _advice(self, event: Event, tier: Tier, rtol: float) -> AdviceRecord:
        """The largest atol that detects as much as is wanted, whether it is free of false alarms, or why there is none."""
        floor = self._without_alarm(self.floors[0], tier, rtol)

        def advice(
            atol: float | None, detection: DetectionRecord | None, feasible: bool, reason: str | None
        ) -> AdviceRecord:
            return AdviceRecord(
                rtol=rtol, atol=atol, detection=detection, no_alarm_atol=finite(floor), feasible=feasible, reason=reason
            )

        at_zero = self._rate(event, tier, rtol, 0.0)
        if at_zero is None:
            return advice(None, None, False, self._reasons(tier)[event])
        atol = self._detections[event].largest_atol(rtol, tier, self.wanted)
        if atol is None:
            return advice(None, at_zero.to_record(), False, _why_not(at_zero, rtol, self.wanted))
        if atol == math.inf:
            most = self._detected(event, tier, rtol, np.finfo(np.float64).max)
            reason = "any atol will do: enough of these outputs are not finite, or there is none"
            return advice(None, most, floor < math.inf, reason)
        feasible = floor <= atol
        why_not = None if feasible else f"the fault-free engine needs {floor:.3g}, or it raises false alarms"
        return advice(atol, self._detected(event, tier, rtol, atol), feasible, why_not)

    def _areas(self) -> list[AreaRecord]:
        """Areas under the curve of every fault-free engine at the main rtol, and of the first at every rtol."""
        columns = [(floor, self.grid.main) for floor in self.floors]
        columns += [(self.floors[0], rtol) for rtol in self.grid.rtols if rtol != self.grid.main]
        records = []
        for event, detection in self._detections.items():
            for floor, rtol in columns:
                areas = detection.areas(rtol, partial(self._clean, floor, rtol))
                for tier, area in areas.items():
                    records.append(
                        AreaRecord(
                            event=event,
                            tier=tier,
                            source=str(floor.source),
                            rtol=rtol,
                            auc=rounded_share(area.rate),
                            low=rounded_share(area.low),
                            high=rounded_share(area.high),
                            n=area.n,
                            faults=area.faults,
                        )
                    )
        return records


def finite(value: float) -> float | None:
    """None for infinity, for which JSON has no word."""
    return value if math.isfinite(value) else None


def _why_not(at_zero: DetectionRate, rtol: float, wanted: float) -> str:
    if at_zero.rate < wanted:
        return f"even at atol 0 only {100 * at_zero.rate:.3g} % are flagged: rtol {rtol:g} alone lets the rest pass"
    return (
        f"at atol 0 the lower limit is {100 * at_zero.low:.3g} %: {at_zero.n} rows of {at_zero.faults} faults are too few"
        f" to show {100 * wanted:g} %"
    )
