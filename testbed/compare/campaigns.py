"""Two finished campaigns of one model, side by side: the same faults in two engines, or one fault model in two
precisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from testbed.compare.engine_record import EngineComparison
from testbed.compare.engines import compare_engines
from testbed.compare.headline import headline
from testbed.compare.precision_record import PrecisionComparison
from testbed.compare.precisions import compare_roles
from testbed.compare.record import CampaignComparison, Headline
from testbed.compare.same_model import check_same_model
from testbed.compare.side import Side
from testbed.core.errors import UsageError
from testbed.core.folder.files import atomic_path

Comparison = EngineComparison | PrecisionComparison


def compare_campaigns(first: Path, second: Path) -> Comparison:
    """The comparison: of two engines within one precision, or of two precisions.

    Raises UsageError for folders without a campaign, for two models, and where nothing can be paired; StaleArtefact for
    a campaign that is not finished or whose files were changed.
    """
    a, b = Side.of(first), Side.of(second)
    unknown = check_same_model(a, b)
    within = a.precision == b.precision
    shared = CampaignComparison(
        mode="engines" if within else "precisions",
        a=a.to_record(),
        b=b.to_record(),
        confidence=a.spec.confidence,
        headline=Headline(a=headline(a), b=headline(b)),
        notes=[*([unknown] if unknown else []), *_notes(a, b)],
    )
    return compare_engines(a, b, shared) if within else compare_roles(a, b, shared)


def table_of(compared: Comparison) -> pd.DataFrame:
    """The disagreeing rows (two engines) or the rates per role (two precisions)."""
    records = compared.disagreements.listed if isinstance(compared, EngineComparison) else compared.roles
    return pd.json_normalize([record.to_json() for record in records])


def write_table(compared: Comparison, path: Path) -> None:
    """Write `table_of` as .csv or .parquet, by the name's end.

    Raises UsageError for another ending, see `check_table_name`.
    """
    check_table_name(path)
    table = table_of(compared)
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)


def check_table_name(path: Path) -> None:
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{path}: a table is written as .csv or .parquet; end its name in one of them")


def _notes(a: Side, b: Side) -> Iterator[str]:
    """What else differs, so that it is not taken for the engine's or the precision's doing."""
    if _tolerance(a) != _tolerance(b):
        yield f"each side is judged by its own tolerance: A {_tolerance(a)}, B {_tolerance(b)}"
    if a.spec.detector != b.spec.detector:
        yield f"the detectors differ: A {a.spec.detector}, B {b.spec.detector}"
    if a.spec.confidence != b.spec.confidence:
        yield f"intervals are at A's confidence, {a.spec.confidence:g}; B asks for {b.spec.confidence:g}"
    if set(a.images) != set(b.images):
        common = len(set(a.images) & set(b.images))
        yield f"A names {len(a.images)} images, B {len(b.images)}; {common} are common, and only those are compared"
    if a.is_protected != b.is_protected:
        protected, other = ("A", "B") if a.is_protected else ("B", "A")
        yield (
            f"{protected} is of a protected model and {other} is not: what protection bought is told by `testbed protect"
            " compare`"
        )
    if a.precision == b.precision and set(a.rows["deployment_id"]) != set(b.rows["deployment_id"]):
        yield "the plain ONNX files differ: their exports, not only their engines, are compared"


def _tolerance(side: Side) -> str:
    tolerance = side.spec.tolerance
    per_tier = tolerance.per_tier(len(side.spec.tiers.edges))
    atol = per_tier if len(set(per_tier)) > 1 else per_tier[:1]
    return f"atol {' '.join(f'{value:g}' for value in atol)} and rtol {tolerance.rtol:g}"
