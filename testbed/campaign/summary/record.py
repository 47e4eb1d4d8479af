"""``summary.json`` as it is read: what tables, the page and trade-offs take from it is held to a form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue

from testbed.core.errors import StaleArtefact
from testbed.core.folder.forms import Form, read_form
from testbed.core.folder.parsing import read_json
from testbed.core.schema import READABLE_VERSIONS

_WHAT = "a campaign's summary"
_FIX = "rerun with `testbed campaign run SPEC --redo summary`"
_NonNegative = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Table = dict[str, JsonValue]


class _Rate(Form):
    rate: _Share
    low: _Share
    high: _Share


class _Marginal(Form):
    """A rate of one fault model, over all or by one value of a dimension."""

    target: str
    where: str
    op: str
    by: str
    value: str | int | None
    faults: _NonNegative
    n: _NonNegative
    rates: dict[str, _Rate | None]


class _Model(Form):
    test_accuracy: _Share
    test_images: _NonNegative


class _Data(Form):
    name: str
    classes: list[str]


class _EngineSummary(Form):
    deployment_id: str
    precision: str
    threads: _NonNegative


class _Engines(Form):
    target: str
    where: str
    hash: str


class _TierSummary(Form):
    tier: _NonNegative
    low: float
    high: float
    images: _NonNegative
    available: _NonNegative


class _Tolerance(Form):
    atol: list[float]
    rtol: float


class _Deviation(Form):
    max_abs_diff: float


class SummaryFile(Form):
    name: str
    faults: _NonNegative
    rows: _NonNegative
    model: _Model
    data: _Data
    tiers: list[_TierSummary]
    engine: _EngineSummary
    engines: list[_Engines]
    zero_fault: _Table
    drift: _Deviation
    tolerance: _Tolerance
    confidence: Annotated[float, Field(gt=0, lt=1)]
    strata: list[_Table]
    marginals: list[_Marginal]
    timing: list[_Table]
    failures: _Table
    injections_per_second: float
    statement: str
    stop: _Table | None = None


def load_summary(path: Path) -> dict[str, Any]:
    """Loads the summary as it was written, JSON's own types. Raises StaleArtefact for another schema version, and for
    what is no summary, saying which value."""
    found = read_json(path, _WHAT, _FIX)
    version = found.get("schema_version") if isinstance(found, dict) else None
    if isinstance(version, int) and version not in READABLE_VERSIONS:
        readable = ", ".join(map(str, READABLE_VERSIONS))
        raise StaleArtefact(f"{path} has schema version {version}, this testbed reads {readable}; {_FIX}")
    read_form(path, SummaryFile, _WHAT, _FIX)
    return dict(found)
