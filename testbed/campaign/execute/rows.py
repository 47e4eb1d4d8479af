"""Result rows: what a unit of work knows, as one Arrow table in the schema's columns."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from testbed.analysis.outputs.outcome import GoldenSide, Outcomes
from testbed.campaign.execute.second_runs import SecondRuns
from testbed.campaign.folder.images import NamedImages
from testbed.campaign.results.reader import ROW_SCHEMA
from testbed.core.arrays import Words32
from testbed.core.outcome import DUES, HOWS, OUTCOMES, Outcome
from testbed.core.schema import FAULT_COLUMNS, SCHEMA_VERSION
from testbed.engines.runner import EngineInfo
from testbed.instrument.ports.feed import numbers_of_format

_DUE = OUTCOMES.index(Outcome.DUE)
_FAULT_NAMES = [column.name for column in FAULT_COLUMNS]
_KINDS = [(field.name, field.type) for field in ROW_SCHEMA]
_MADE_FROM_OUTPUTS = (
    "logits",
    "top1_faulty",
    "margin_faulty",
    "probability_faulty",
    "sdc5",
    "sdc10",
    "sdc20",
    "nonfinite",
)


@dataclass(frozen=True)
class RowFacts:
    """What is known of each row before anything is run. ``fault``: row of the plan slice's plan; ``image``: row of the named
    images; words: of the first struck element."""

    fault: NDArray[np.int64]
    image: NDArray[np.int64]
    golden_word: Words32
    faulty_word: Words32


@dataclass(frozen=True)
class Injected:
    """What running faults gave. logits: (n, K), None for outputs without classes. how, bound: see
    `evaluation.Evaluated`. due: "crash" or "hang" where there is no output at all. second: what followed alarms,
    where anything did."""

    known: RowFacts
    logits: NDArray[np.float32] | None
    how: NDArray[np.int8]
    bound: NDArray[np.float32]
    due: str | None = None
    second: SecondRuns | None = None


def result_rows(
    plan: pa.Table, injected: Injected, outcomes: Outcomes, images: NamedImages, engine: EngineInfo
) -> pa.Table:
    """Makes the table of result rows. plan: the plan slice's plan, from which the fault's columns are taken."""
    known = injected.known
    n = len(known.fault)
    faults = plan.select(_FAULT_NAMES).take(pa.array(known.fault))
    codes = np.full(n, _DUE, np.int8) if injected.due else outcomes.outcome
    due = DUES.index(injected.due or "nonfinite")
    columns: dict[str, pa.Array | None] = {
        "image_id": _dictionary(known.image, images.ids),
        "label": pa.array(images.labels[known.image].astype(np.int16)),
        "tier": pa.array(images.tiers[known.image].astype(np.int16)),
        "golden_value": pa.array(_numbers(faults, known.golden_word)),
        "faulty_value": pa.array(_numbers(faults, known.faulty_word)),
        "golden_word": pa.array(known.golden_word),
        "faulty_word": pa.array(known.faulty_word),
        "outcome": _dictionary(codes, OUTCOMES),
        "due": _dictionary(np.full(n, due), DUES, codes == _DUE),
        "infrastructure_failure": pa.array(np.zeros(n, bool)),
        "masking_atol": _lists(outcomes.masking_atol),
        "recovered": None
        if injected.second is None
        else pa.array(injected.second.recovered, mask=~injected.second.ran),
        "logits": None if injected.logits is None else _lists(injected.logits),
        "evaluation": _dictionary(injected.how, HOWS),
        "error_bound": pa.array(injected.bound),
        "engine_hash": _dictionary(np.zeros(n, np.int32), (engine.hash,)),
        "deployment_id": _dictionary(np.zeros(n, np.int32), (engine.deployment_id,)),
        "schema_version": pa.array(np.full(n, SCHEMA_VERSION, np.int16)),
    }
    for field in fields(Outcomes):
        if field.name not in columns:
            value = getattr(outcomes, field.name)
            columns[field.name] = None if value is None else pa.array(value)
    if injected.due:  # no faulty output: null, rather than numbers made from nothing
        columns |= dict.fromkeys(_MADE_FROM_OUTPUTS)
    columns |= {name: column.combine_chunks() for name, column in zip(_FAULT_NAMES, faults.columns, strict=True)}
    arrays = [_cast(columns[name], kind, n) for name, kind in _KINDS]
    return pa.Table.from_arrays(arrays, schema=ROW_SCHEMA)


def unknown_outcomes(side: GoldenSide, rtols: int) -> Outcomes:
    """Outcomes of rows without any output: what is known is the golden's side; no tolerance would have masked them."""
    n = len(side)
    never = np.full(n, np.inf)
    return Outcomes(
        outcome=np.full(n, _DUE, np.int8),
        nonfinite=np.zeros(n, bool),
        detected=np.zeros(n, bool),
        max_abs_diff=never,
        mismatches=np.full(n, side.elements, np.int32),
        masking_atol=np.full((n, rtols), np.inf),
        top1_golden=None if side.top1 is None else side.top1.astype(np.int16),
        margin_golden=None if side.margin is None else side.margin.astype(np.float32),
        probability_golden=None if side.probability is None else side.probability.astype(np.float32),
    )


def flagged(rows: pa.Table) -> pa.Table:
    """The same rows, of faults that failed when nobody else can have been at fault, and then did not fail again."""
    column = rows.column_names.index("infrastructure_failure")
    return rows.set_column(column, ROW_SCHEMA.field(column), pa.array(np.ones(rows.num_rows, bool)))


def _numbers(faults: pa.Table, words: Words32) -> NDArray[np.float32]:
    column = faults.column("format").combine_chunks()
    names, codes = column.dictionary.to_pylist(), column.indices.to_numpy()
    values = np.empty(len(words), np.float32)
    for code in np.flatnonzero(np.bincount(codes)):
        of_format = codes == code
        values[of_format] = numbers_of_format(words[of_format], names[code])
    return values


def _cast(array: pa.Array | None, kind: pa.DataType, n: int) -> pa.Array:
    if array is None:
        return pa.nulls(n, kind)
    return array if array.type == kind else pc.cast(array, kind)


def _dictionary(codes: NDArray, names: tuple[str, ...], known: NDArray[np.bool_] | None = None) -> pa.Array:
    """A dictionary column. known: False where the value is null."""
    indices = pa.array(codes.astype(np.int32), mask=None if known is None else ~known)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))


def _lists(values: NDArray) -> pa.Array:
    n, width = values.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))
