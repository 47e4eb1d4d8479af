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
from testbed.analysis.stats import proportion_interval, rounded_share
from testbed.core.outcome import EVENTS
from testbed.sweep.detection import Detection, DetectionRate, Tier
from testbed.sweep.noise import Floor
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

    def records(self) -> Iterator[dict[str, Any]]:
        """Over all images (tier None), then per tier, JSON-ready."""
        areas = self._areas()
        for tier in self.tiers:
            selected = np.ones(len(self.rows.tier), bool) if tier is None else self.rows.tier == tier
            yield {
                **self.rows.fault_model,
                "tier": tier,
                "n_rows": int(selected.sum()),
                "n_faults": len(np.unique(self.rows.rows["fault_id"].to_numpy()[selected])),
                "n_sdc1": None if self.rows.sdc1 is None else int((self.rows.sdc1 & selected).sum()),
                "n_corrupted": int((self.rows.corrupted & selected).sum()),
                "n_ended": int((self.rows.ended & selected).sum()),
                "reasons": self._reasons(tier),
                "noise": [self._floor(floor, tier) for floor in self.floors],
                "grid": [self._point(tier, rtol, atol) for rtol in self.grid.rtols for atol in self._atols(tier, rtol)],
                "roc": [self._roc(floor, tier) for floor in self.floors],
                "auc": {event: [a for a in areas if a["event"] == event and a["tier"] == tier] for event in EVENTS},
                "recommended": {
                    "wanted": self.wanted,
                    **{event: [self._advice(event, tier, rtol) for rtol in self.grid.rtols] for event in EVENTS},
                },
            }

    @cached_property
    def tiers(self) -> list[Tier]:
        return [None, *np.unique(self.rows.tier).tolist()]

    # ---- what is asked of the rows

    @cached_property
    def _detections(self) -> dict[str, Detection]:
        return {
            event: Detection(self.rows, which, self.confidence)
            for event, which in self.rows.events.items()
            if which is not None
        }

    def _detected(self, event: str, tier: Tier, rtol: float, atol: float) -> DetectionRate | None:
        """None where no row of the tier has the event."""
        detection = self._detections.get(event)
        return detection.at(rtol, atol).get(tier) if detection else None

    def _reasons(self, tier: Tier) -> dict[str, str]:
        """Why there are no rates of an event, where there are none."""
        reasons = {}
        for event in EVENTS:
            detection = self._detections.get(event)
            if detection is None:
                reasons[event] = "outputs of this target have no classes"
            elif not detection.rows(tier).any():
                what = "changed the top-1" if event == "sdc1" else "changed a bit of the output"
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

    def _false_alarm(self, floor: Floor, tier: Tier, rtol: float, atol: float) -> dict[str, Any]:
        clean = self._clean(floor, rtol, tier)
        alarms, n = int((clean > atol).sum()), len(clean)
        low, high = proportion_interval(alarms, n, self.confidence)
        return {
            "rate": rounded_share(alarms / n),
            "low": rounded_share(float(low)),
            "high": rounded_share(float(high)),
            "n": n,
        }

    def false_alarms(self) -> Iterator[dict[str, Any]]:
        """False alarms of every fault-free engine at every tolerance of the grid, over all images and per tier."""
        for tier in self.tiers:
            for floor in self.floors:
                points = [
                    {"atol": atol, "rtol": rtol, **self._false_alarm(floor, tier, rtol, atol)}
                    for rtol in self.grid.rtols
                    for atol in self._atols(tier, rtol)
                ]
                yield {"target": floor.target, "tier": tier, "source": str(floor.source), "grid": points}

    # ---- records

    def _floor(self, floor: Floor, tier: Tier) -> dict[str, Any]:
        points = []
        for rtol in self.grid.rtols:
            clean = self._clean(floor, rtol, tier)
            atol, bound = smallest_without_alarm(clean, self.confidence)
            detected = {f"detection_{e}": rate_to_json(self._detected(e, tier, rtol, atol)) for e in EVENTS}
            points.append(
                {"rtol": rtol, "smallest_atol": finite(atol), "false_alarm_upper": rounded_share(bound), **detected}
            )
        return {**describe_source(floor), "n": len(floor.of_tier(tier)), "floors": points}

    def _point(self, tier: Tier, rtol: float, atol: float) -> dict[str, Any]:
        return {
            "atol": atol,
            "rtol": rtol,
            "false_alarm": self._false_alarm(self.floors[0], tier, rtol, atol),
            **{f"detection_{event}": rate_to_json(self._detected(event, tier, rtol, atol)) for event in EVENTS},
        }

    def _roc(self, floor: Floor, tier: Tier) -> dict[str, Any]:
        """The ROC at the scores of the fault-free images themselves: there the false-alarm rate steps."""
        rtol = self.grid.main
        clean = self._clean(floor, rtol, tier)
        levels = np.unique(np.append(clean[np.isfinite(clean)], 0.0))
        if len(levels) > _ROC_POINTS:
            levels = levels[np.linspace(0, len(levels) - 1, _ROC_POINTS).astype(int)]
        points = [
            {
                "atol": atol,
                "false_alarm": float((clean > atol).mean()),
                **{event: rate_to_json(self._detected(event, tier, rtol, atol)) for event in EVENTS},
            }
            for atol in levels[::-1].tolist()
        ]
        return {"source": str(floor.source), "rtol": rtol, "points": points}

    def _advice(self, event: str, tier: Tier, rtol: float) -> dict[str, Any]:
        """The largest atol that detects as much as is wanted, whether it is free of false alarms, or why there is none."""
        floor = self._without_alarm(self.floors[0], tier, rtol)
        advice: dict[str, Any] = {
            "rtol": rtol,
            "atol": None,
            "detection": None,
            "no_alarm_atol": finite(floor),
            "feasible": False,
            "reason": None,
        }
        at_zero = self._detected(event, tier, rtol, 0.0)
        if at_zero is None:
            return advice | {"reason": self._reasons(tier)[event]}
        atol = self._detections[event].largest_atol(rtol, tier, self.wanted)
        if atol is None:
            return advice | {"detection": rate_to_json(at_zero), "reason": _why_not(at_zero, rtol, self.wanted)}
        if atol == math.inf:
            most = self._detected(event, tier, rtol, np.finfo(np.float64).max)
            reason = "any atol will do: enough of these outputs are not finite, or there is none"
            return advice | {"detection": rate_to_json(most), "feasible": floor < math.inf, "reason": reason}
        detected = rate_to_json(self._detected(event, tier, rtol, atol))
        feasible = floor <= atol
        why_not = None if feasible else f"the fault-free engine needs {floor:.3g}, or it raises false alarms"
        return advice | {"atol": atol, "detection": detected, "feasible": feasible, "reason": why_not}

    def _areas(self) -> list[dict[str, Any]]:
        """Areas under the curve of every fault-free engine at the main rtol, and of the first at every rtol."""
        columns = [(floor, self.grid.main) for floor in self.floors]
        columns += [(self.floors[0], rtol) for rtol in self.grid.rtols if rtol != self.grid.main]
        records = []
        for event, detection in self._detections.items():
            for floor, rtol in columns:
                areas = detection.areas(rtol, partial(self._clean, floor, rtol))
                for tier, area in areas.items():
                    what = {"event": event, "tier": tier, "source": str(floor.source), "rtol": rtol}
                    records.append({**what, "auc": rounded_share(area.rate), **_limits(area)})
        return records


def _limits(area: DetectionRate) -> dict[str, Any]:
    return {"low": rounded_share(area.low), "high": rounded_share(area.high), "n": area.n, "faults": area.faults}


def describe_source(floor: Floor) -> dict[str, Any]:
    source = floor.source
    return {
        "source": str(source),
        "engine": source.backend,
        "precision": source.precision,
        "batch": source.batch,
        "file": source.file,
        "arithmetic": floor.arithmetic,
        "engine_hash": floor.engine_hash,
    }


def rate_to_json(rate: DetectionRate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    record: dict[str, Any] = {name: rounded_share(getattr(rate, name)) for name in ("rate", "low", "high")}
    record |= {"n": rate.n, "faults": rate.faults}
    return record | {"undecided": rate.undecided} if rate.undecided else record


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
