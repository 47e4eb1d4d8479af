"""Result rows: what a unit of work knows, as one Arrow table in the schema's columns."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.analysis.outcome import Outcomes
from testbed.campaign.images import NamedImages
from testbed.core.outcome import OUTCOMES, Outcome
from testbed.core.schema import FAULT_COLUMNS, ROW_COLUMNS, SCHEMA_VERSION, arrow_schema
from testbed.engines.runner import EngineInfo
from testbed.instrument.feed import Words, numbers

ROW_SCHEMA = arrow_schema(ROW_COLUMNS)
DUES = ("crash", "nonfinite", "hang")
_DUE = OUTCOMES.index(Outcome.DUE)


@dataclass(frozen=True)
class Injected:
    """One entry per row. ``fault``: row of the leg's plan; ``image``: row of the named images; outputs (n, ...).

    ``failed`` rows have no output (the engine failed on that fault alone); ``retried`` ones only failed in company.
    """

    fault: NDArray[np.int64]
    image: NDArray[np.int64]
    golden_word: Words
    faulty_word: Words
    outputs: NDArray[np.float32]
    failed: NDArray[np.bool_]
    retried: NDArray[np.bool_]


def result_rows(
    plan: pa.Table, injected: Injected, outcomes: Outcomes, images: NamedImages, engine: EngineInfo
) -> pa.Table:
    """plan: the leg's plan, from which the fault's columns are taken."""
    n = len(injected.fault)
    faults = plan.select([column.name for column in FAULT_COLUMNS]).take(pa.array(injected.fault))
    formats = faults.column("format").cast(pa.string()).to_pylist()
    codes = np.where(injected.failed, _DUE, outcomes.outcome)
    columns: dict[str, pa.Array] = {
        "image_id": _dictionary(injected.image, images.ids),
        "label": pa.array(images.labels[injected.image].astype(np.int16)),
        "tier": pa.array(images.tiers[injected.image].astype(np.int16)),
        "golden_value": pa.array(numbers(injected.golden_word, formats)),
        "faulty_value": pa.array(numbers(injected.faulty_word, formats)),
        "golden_word": pa.array(injected.golden_word),
        "faulty_word": pa.array(injected.faulty_word),
        "outcome": _dictionary(codes, OUTCOMES),
        "due": _dictionary(np.where(injected.failed, 0, 1), DUES, codes == _DUE),
        "infrastructure_failure": pa.array(injected.retried),
        "evaluation": _dictionary(np.zeros(n, np.int32), ("whole",)),
        "error_bound": pa.array(np.zeros(n, np.float32)),
        "masking_atol": _lists(outcomes.masking_atol),
        "logits": _lists(injected.outputs) if outcomes.top1_golden is not None else None,
        "engine_hash": _dictionary(np.zeros(n, np.int32), (engine.hash,)),
        "deployment_id": _dictionary(np.zeros(n, np.int32), (engine.deployment_id,)),
        "schema_version": pa.array(np.full(n, SCHEMA_VERSION, np.int16)),
    }
    for field in fields(Outcomes):
        if field.name not in columns:
            value = getattr(outcomes, field.name)
            columns[field.name] = None if value is None else pa.array(value)
    if injected.failed.any():
        _blank_outputs(columns, injected.failed)
    arrays = [
        faults.column(f.name).combine_chunks() if f.name in faults.column_names else _cast(columns[f.name], f.type, n)
        for f in ROW_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=ROW_SCHEMA)


def _blank_outputs(columns: dict[str, pa.Array], failed: NDArray[np.bool_]) -> None:
    """A failed row has no faulty output: null, rather than numbers made from nothing."""
    mask = pa.array(~failed)
    for name in ("logits", "top1_faulty", "margin_faulty", "probability_faulty", "sdc5", "sdc10", "sdc20", "nonfinite"):
        if columns[name] is not None:
            columns[name] = pa.compute.if_else(mask, columns[name], pa.scalar(None, columns[name].type))


def _cast(array: pa.Array | None, kind: pa.DataType, n: int) -> pa.Array:
    if array is None:
        return pa.nulls(n, kind)
    return array if array.type == kind else array.cast(kind)


def _dictionary(codes: NDArray, names: tuple[str, ...], known: NDArray[np.bool_] | None = None) -> pa.Array:
    """known: False where the value is null."""
    indices = pa.array(codes.astype(np.int32), mask=None if known is None else ~known)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))


def _lists(values: NDArray) -> pa.Array:
    n, width = values.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))
