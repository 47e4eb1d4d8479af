"""``status.json`` as it is read: a help for whoever watches, which a kill, a full disk or an editor may have left in any
state. What makes no sense in it is not there; nothing ever rests on it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from testbed.campaign.results.snapshot import RateWidth, RecordedSnapshot, Steps, Widest
from testbed.core.folder.parsing import json_value
from testbed.core.outcome import OUTCOMES

_Count = Annotated[int, Field(ge=0, le=10**15)]
_StatusSeconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=500)]
_Share = Annotated[float, Field(ge=0, le=1)]


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


_OrNone = WrapValidator(_or_none)


class _RateWidth(BaseModel):
    model_config = ConfigDict(strict=True)

    group: _Text
    faults: _Count
    halfwidth: _Share
    relative: _StatusSeconds | None
    margin: _Share
    met: bool


class _Widest(BaseModel):
    model_config = ConfigDict(strict=True)

    group: _Text
    faults: _Count
    halfwidth: _Share
    confidence: _Share
    margin: _Share | None
    rates: list[_RateWidth] = []


class _Steps(BaseModel):
    model_config = ConfigDict(strict=True)

    what: _Text
    total: _Count
    done: _Count
    per_second: _StatusSeconds | None
    eta_s: _StatusSeconds | None


class _StatusFile(BaseModel):
    """The file, field by field: one that is absurd says nothing of the others."""

    model_config = ConfigDict(strict=True)

    stage: Annotated[_Text | None, _OrNone] = None
    units: Annotated[_Count | None, _OrNone] = None
    units_done: Annotated[_Count | None, _OrNone] = None
    faults: Annotated[_Count | None, _OrNone] = None
    faults_done: Annotated[_Count | None, _OrNone] = None
    faults_per_second: Annotated[_StatusSeconds | None, _OrNone] = None
    eta_s: Annotated[_StatusSeconds | None, _OrNone] = None
    outcomes: Annotated[dict[Literal[OUTCOMES], _Count] | None, _OrNone] = None  # type: ignore[valid-type]
    widest: Annotated[_Widest | None, _OrNone] = None
    workers: Annotated[_Count | None, _OrNone] = None
    updated: Annotated[_Text | None, _OrNone] = None
    steps: Annotated[_Steps | None, _OrNone] = None


def read_status(path: Path) -> RecordedSnapshot:
    """What was last said of a campaign; nothing where the file is missing or damaged."""
    try:
        content = json_value(path.read_bytes())
    except (OSError, ValueError):
        return RecordedSnapshot()
    if not isinstance(content, dict):
        return RecordedSnapshot()
    written = _StatusFile.model_validate(content)
    possible = written.faults is None or (written.faults_done or 0) <= written.faults
    return RecordedSnapshot(
        stage=written.stage,
        units=written.units,
        units_done=written.units_done,
        faults=written.faults if possible else None,
        faults_done=written.faults_done if possible else None,
        faults_per_second=written.faults_per_second,
        eta_s=written.eta_s,
        outcomes=written.outcomes or {},
        widest=None if written.widest is None else _widest(written.widest),
        workers=written.workers,
        updated=None if age_s(written.updated) is None else written.updated,
        steps=None if written.steps is None else Steps(**written.steps.model_dump()),
    )


def _widest(written: _Widest) -> Widest:
    rates = tuple(RateWidth(**rate.model_dump()) for rate in written.rates)
    return Widest(**written.model_dump(exclude={"rates"}), rates=rates)


def age_s(updated: str | None) -> float | None:
    """Seconds since that time (ISO 8601 with a zone); None where it is no such time."""
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(str(updated))).total_seconds())
    except (TypeError, ValueError):
        return None
