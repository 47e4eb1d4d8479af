"""``status.json`` as it is read: a help for whoever watches, which a kill, a full disk or an editor may have left in any
state. What makes no sense in it is not there; nothing ever rests on it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from testbed.core.folder.parsing import json_value
from testbed.core.outcome import OUTCOMES

_Count = Annotated[int, Field(ge=0, le=10**15)]
_StatusSeconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=500)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Widest(BaseModel):
    model_config = ConfigDict(strict=True)

    group: _Text
    faults: _Count
    halfwidth: _Share
    confidence: _Share
    margin: _Share | None


class _Steps(BaseModel):
    model_config = ConfigDict(strict=True)

    what: _Text
    total: _Count
    done: _Count
    per_second: _StatusSeconds | None
    eta_s: _StatusSeconds | None


_FIELDS: dict[str, tuple[Any, Any]] = {
    "stage": (_Text, None),
    "units": (_Count, None),
    "units_done": (_Count, None),
    "faults": (_Count, None),
    "faults_done": (_Count, None),
    "faults_per_second": (_StatusSeconds, None),
    "eta_s": (_StatusSeconds, None),
    "outcomes": (dict[Literal[OUTCOMES], _Count], {}),  # type: ignore[valid-type]
    "widest": (_Widest, None),
    "workers": (_Count, None),
    "updated": (_Text, None),
    "steps": (_Steps, None),
}
EMPTY: dict[str, Any] = {name: default for name, (_, default) in _FIELDS.items()}
_READERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(kind, config=None if kind in (_Widest, _Steps) else ConfigDict(strict=True))
    for name, (kind, _) in _FIELDS.items()
}


def read_status(path: Path) -> dict[str, Any]:
    """The fields of a `testbed.campaign.results.progress.Snapshot`; null (or no outcomes) where one is missing or absurd."""
    try:
        written = json_value(path.read_bytes())
    except (OSError, ValueError):
        return dict(EMPTY)
    fields = dict(EMPTY)
    for name, reader in _READERS.items() if isinstance(written, dict) else ():
        try:
            reader.validate_python(written.get(name))
        except ValidationError:
            continue
        fields[name] = written[name]
    if fields["faults"] is not None and (fields["faults_done"] or 0) > fields["faults"]:
        fields |= {"faults": None, "faults_done": None}
    if age_s(fields["updated"]) is None:
        fields["updated"] = None
    return fields


def age_s(updated: str | None) -> float | None:
    """Seconds since that time (ISO 8601 with a zone); None where it is no such time."""
    try:
        return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(str(updated))).total_seconds())
    except (TypeError, ValueError):
        return None
