"""What the report takes from the rows themselves: the composition of outcomes, and the worst faults.

Rows may be many: only the columns needed are read, and only the rows that are shown leave Arrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from testbed.campaign.rates import FaultModel
from testbed.core.errors import StaleArtefact
from testbed.core.outcome import OUTCOMES

PLAN, RESULTS = "faults.parquet", "results.parquet"
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
class Composition:
    """How the outcomes of one group of faults divide, weighted by population. Shares add up to 1."""

    shares: dict[str, float]
    rows: int


@dataclass(frozen=True)
class WorstFault:
    """One row of the results. Margins are None where they are not defined (a NaN logit)."""

    fault_id: int
    where: str
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


def compositions(run: Path) -> dict[tuple[str, str, str, str], Composition]:
    """By (target, where, fault model, bit class), and "all" for every bit class together.

    A row stands for population / rows of its stratum, so that the shares agree with the summary's rates.
    """
    cells = [*_STRATUM, "outcome"]
    counts = _plain(_read(run / RESULTS, cells)).group_by(cells).aggregate([([], "count_all")])
    frame = counts.to_pandas().rename(columns={"count_all": "rows"})
    share = frame["rows"] / frame.groupby("stratum")["rows"].transform("sum")
    frame["weight"] = share * frame["stratum"].map(_population(run))
    labels = {model: FaultModel(*model).label for model in frame[_MODEL].drop_duplicates().itertuples(index=False)}
    frame["op"] = [labels[model] for model in frame[_MODEL].itertuples(index=False)]
    everything = frame.assign(bit_class="all")
    groups = pd.concat([everything, frame]).groupby(["target", "where", "op", "bit_class"])
    return {tuple(map(str, key)): _composition(rows) for key, rows in groups}  # type: ignore[misc]


def _composition(rows: pd.DataFrame) -> Composition:
    weights = rows.groupby("outcome")["weight"].sum()
    total = float(weights.sum())
    return Composition({o: float(weights[o]) / total for o in OUTCOMES if o in weights}, int(rows["rows"].sum()))


def _population(run: Path) -> dict[int, int]:
    plan = _read(run / PLAN, ["stratum", "population"])
    return dict(zip(plan["stratum"].to_pylist(), plan["population"].to_pylist(), strict=True))


def worst_predictions(run: Path, where: str, limit: int) -> list[WorstFault]:
    """Finite outputs whose prediction changed, the surest golden prediction first."""
    changed = (pc.field("outcome") == "sdc1") & ~pc.field("nonfinite")
    return _worst(run, where, changed, limit)


def worst_nonfinite(run: Path, where: str, limit: int) -> list[WorstFault]:
    """Outputs with NaN or infinity, the surest golden prediction first."""
    return _worst(run, where, pc.field("nonfinite"), limit)


def _worst(run: Path, where: str, condition: pc.Expression, limit: int) -> list[WorstFault]:
    chosen = (pc.field("target") == "model") & (pc.field("where") == where) & condition
    frame = _read(run / RESULTS, _SHOWN, chosen).to_pandas(types_mapper={pa.int16(): pd.Int16Dtype()}.get)
    ranked = frame.sort_values(
        ["margin_golden", "margin_faulty", "fault_id", "image_id"], ascending=[False, False, True, True], kind="stable"
    )
    return _distinct((_fault(row) for row in ranked.to_dict("records")), limit)


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


def _fault(row: dict[str, Any]) -> WorstFault:
    return WorstFault(
        fault_id=int(row["fault_id"]),
        where=row["where"],
        site=row["site"],
        index=int(row["index"]),
        op=row["op"],
        points=int(row["points"]),
        pattern=row["pattern"],
        bit=None if pd.isna(row["bit"]) else int(row["bit"]),
        format_name=row["format"],
        image_id=row["image_id"],
        label=int(row["label"]),
        golden_value=float(row["golden_value"]),
        faulty_value=float(row["faulty_value"]),
        golden_word=int(row["golden_word"]),
        faulty_word=int(row["faulty_word"]),
        top1_golden=int(row["top1_golden"]),
        top1_faulty=int(row["top1_faulty"]),
        margin_golden=float(row["margin_golden"]),
        margin_faulty=None if pd.isna(row["margin_faulty"]) else float(row["margin_faulty"]),
    )


def _read(path: Path, columns: Sequence[str], condition: pc.Expression | None = None) -> pa.Table:
    """Raises StaleArtefact for an unreadable file or one without these columns."""
    try:
        if condition is None:
            return pq.read_table(path, columns=list(columns))
        return ds.dataset(path).to_table(columns=list(columns), filter=condition)
    except (OSError, pa.ArrowException, KeyError) as error:
        stage = "plan" if path.name == PLAN else "execute"
        raise StaleArtefact(f"{path} cannot be read; rerun with --redo {stage}") from error


def _plain(table: pa.Table) -> pa.Table:
    """Text columns as plain text: chunks of one file may have different dictionaries."""
    fields = [f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))
