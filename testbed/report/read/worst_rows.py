"""What the report takes from the rows themselves: the composition of outcomes, and the worst faults.

Rows may be many: only the columns needed are read, and only the rows that are shown leave Arrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from testbed.campaign.files import PLAN, RESULTS
from testbed.campaign.results.reader import PLAN_TABLE, RESULT_TABLE
from testbed.core.errors import StaleArtefact
from testbed.core.fault import FaultModel
from testbed.core.outcome import OUTCOMES
from testbed.core.site import Where
from testbed.report.estimate import Composition

_MODEL = list(FaultModel._fields)
_STRATUM = [*_MODEL, "bit_class", "stratum"]
_SHOWN = [
    "fault_id",
    "where",
    "site",
    "index",
    "op",
    "bit",
    "points",
    "pattern",
    "due",
    "image_id",
    "label",
    "golden_value",
    "faulty_value",
    "top1_golden",
    "top1_faulty",
    "margin_golden",
    "margin_faulty",
    "format",
    "golden_word",
    "faulty_word",
]


@dataclass(frozen=True)
class WorstFault:
    """One row of the results. Margins are None where they are not defined (a NaN logit, no output at all); due: what
    ended or noticed it, None if nothing."""

    fault_id: int
    where: Where
    site: str
    index: int
    op: str
    bit: int | None
    format_name: str
    image_id: str
    label: int
    golden_value: float
    faulty_value: float
    golden_word: int
    faulty_word: int
    top1_golden: int
    top1_faulty: int
    margin_golden: float
    margin_faulty: float | None
    points: int = 1
    pattern: str = "single"
    due: str | None = None


def compositions(run: Path) -> dict[tuple[str, str, str, str], Composition]:
    """Compositions by (target, where, fault model, bit class), and "all" for every bit class together.

    A row stands for population / rows of its stratum, so that the shares agree with the summary's rates.
    """
    frame = _outcome_counts(run / RESULTS).to_pandas().rename(columns={"count_all": "rows"})
    share = frame["rows"] / frame.groupby("stratum")["rows"].transform("sum")
    frame["weight"] = share * frame["stratum"].map(_population(run))
    labels = {model: FaultModel(*model).label for model in frame[_MODEL].drop_duplicates().itertuples(index=False)}
    frame["op"] = [labels[model] for model in frame[_MODEL].itertuples(index=False)]
    everything = frame.assign(bit_class="all")
    groups = pd.concat([everything, frame]).groupby(["target", "where", "op", "bit_class"])
    return {tuple(map(str, key)): _composition(rows) for key, rows in groups}  # type: ignore[misc]


def _outcome_counts(path: Path) -> pa.Table:
    """Rows (``count_all``) per stratum, bit class and outcome, read in pieces: there may be many more than fit."""
    cells = [*_STRATUM, "outcome"]
    total: pa.Table | None = None
    for chunk in _chunks(path, cells):
        counts = _plain(chunk).group_by(cells).aggregate([([], "count_all")])
        if total is not None:
            both = pa.concat_tables([total, counts])
            counts = both.group_by(cells).aggregate([("count_all", "sum")]).rename_columns([*cells, "count_all"])
        total = counts
    if total is None:
        raise StaleArtefact(f"{path} holds no rows; rerun with `testbed campaign run SPEC --redo execute`")
    return total


def _chunks(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Raises StaleArtefact for an unreadable file or one without these columns."""
    yield from (PLAN_TABLE if path.name == PLAN else RESULT_TABLE).batches(path, columns)


def _composition(rows: pd.DataFrame) -> Composition:
    weights = rows.groupby("outcome")["weight"].sum()
    total = float(weights.sum())
    return Composition({o: float(weights[o]) / total for o in OUTCOMES if o in weights}, int(rows["rows"].sum()))


def _population(run: Path) -> dict[int, int]:
    population: dict[int, int] = {}
    for chunk in _chunks(run / PLAN, ["stratum", "population"]):
        population.update(zip(*(chunk[name].to_pylist() for name in ("stratum", "population")), strict=True))
    return population


def worst_predictions(run: Path, where: Where, limit: int) -> list[WorstFault]:
    """Finite outputs whose prediction changed, the surest golden prediction first."""
    changed = (pc.field("outcome") == "sdc1") & ~pc.field("nonfinite")
    return _worst(run, where, changed, limit)


def worst_nonfinite(run: Path, where: Where, limit: int) -> list[WorstFault]:
    """Outputs with NaN or infinity, the surest golden prediction first."""
    return _worst(run, where, pc.field("nonfinite"), limit)


def worst_ended(run: Path, where: Where, limit: int) -> list[WorstFault]:
    """Faults that the engine did not survive: no output, the surest golden prediction first."""
    return _worst(run, where, pc.is_in(pc.field("due").cast("string"), pa.array(["crash", "hang"])), limit)


def _worst(run: Path, where: Where, condition: pc.Expression, limit: int) -> list[WorstFault]:
    chosen = (pc.field("target") == "model") & (pc.field("where") == where) & condition
    best: Any = pd.DataFrame()
    for chunk in _chunks(run / RESULTS, [*_SHOWN, "target", "outcome", "nonfinite"]):
        rows = _plain(chunk).filter(chosen).select(_SHOWN)
        frame = rows.to_pandas(types_mapper={pa.int16(): pd.Int16Dtype()}.get)
        best = _ranked(pd.concat([best, frame]) if len(best) else frame).groupby("image_id", sort=False).head(limit)
    return _distinct((_fault(row) for row in _ranked(best).itertuples(index=False)), limit)


def _ranked(frame: Any) -> Any:
    return frame.sort_values(
        ["margin_golden", "margin_faulty", "fault_id", "image_id"], ascending=[False, False, True, True], kind="stable"
    )


def _distinct(ranked: Iterable[WorstFault], limit: int) -> list[WorstFault]:
    """The first ``limit`` of different faults on different images: the same image again would show nothing new."""
    faults: set[int] = set()
    images: set[str] = set()
    chosen: list[WorstFault] = []
    for fault in ranked:
        if len(chosen) == limit:
            break
        if fault.fault_id not in faults and fault.image_id not in images:
            chosen.append(fault)
            faults.add(fault.fault_id)
            images.add(fault.image_id)
    return chosen


def _fault(row: Any) -> WorstFault:
    """Take a named tuple of the columns in `_SHOWN`."""
    return WorstFault(
        fault_id=int(row.fault_id),
        where=row.where,
        site=row.site,
        index=int(row.index),
        op=row.op,
        points=int(row.points),
        pattern=row.pattern,
        due=None if pd.isna(row.due) else row.due,
        bit=None if pd.isna(row.bit) else int(row.bit),
        format_name=row.format,
        image_id=row.image_id,
        label=int(row.label),
        golden_value=float(row.golden_value),
        faulty_value=float(row.faulty_value),
        golden_word=int(row.golden_word),
        faulty_word=int(row.faulty_word),
        top1_golden=int(row.top1_golden),
        top1_faulty=-1 if pd.isna(row.top1_faulty) else int(row.top1_faulty),
        margin_golden=float(row.margin_golden),
        margin_faulty=None if pd.isna(row.margin_faulty) else float(row.margin_faulty),
    )


def _plain(table: pa.Table) -> pa.Table:
    """Text columns as plain text: chunks of one file may have different dictionaries."""
    fields = [f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))
