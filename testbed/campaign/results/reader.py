"""The one reader of a campaign's tables: plans and results, held to the schema before anybody uses a value.

Files may come from another version or another program. Columns of the same family of types (any integer, any text) are
taken and made the schema's own; whatever is missing, of another family, null or out of range where that has no meaning
is refused by the names of column and file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.core.errors import StaleArtefact
from testbed.core.fault import OPS
from testbed.core.outcome import DUES, HOWS, OUTCOMES
from testbed.core.schema import PLAN_COLUMNS, RESULT_COLUMNS, ROW_COLUMNS, arrow_schema

_ROWS_AT_ONCE = 1 << 16
_WORDS: Mapping[str, Collection[str]] = {
    "target": ("model", "attention"),
    "where": ("activation", "weight"),
    "scope": ("inference", "persistent"),
    "op": (*OPS, "identity"),
    "outcome": OUTCOMES,
    "due": DUES,
    "evaluation": HOWS,
}
_RANGES: Mapping[str, tuple[int, int]] = {
    "fault_id": (0, 1 << 48),
    "block": (0, 9_999),
    "index": (0, 1 << 48),
    "bit": (0, 63),
    "points": (1, 1 << 31),
    "stratum": (0, 10_000_000),  # tables by stratum are made of this length
    "tier": (0, 999),
    "population": (1, 1 << 62),
}
_NEVER_NULL = frozenset(
    {"fault_id", "target", "where", "site", "kind", "index", "format", "op", "bit_class", "and_mask", "or_mask"}
    | {"xor_mask", "points", "pattern", "scope", "stratum", "outcome", "evaluation", "population", "round", "draw"}
)
_FILTERED = ("fault_id", "due", "target", "where", "op", "pattern", "scope")  # what rows are chosen by


@dataclass(frozen=True)
class TableForm:
    """What one kind of table must have. fix: how it is made again; optional: columns that older files lack; null_before:
    of these, those that are read as nulls then."""

    what: str
    fix: str
    schema: pa.Schema
    never_null: frozenset[str]
    optional: frozenset[str] = frozenset()
    null_before: frozenset[str] = frozenset()

    def read(self, path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
        """Reads a table. columns: all that the file has unless said. filters: as `pyarrow.parquet.read_table` takes
        them, also by columns that are not read. Raises StaleArtefact, naming the file and the column."""
        file = self._opened(path, columns, () if filters is None else _FILTERED)
        with self._readable(path):
            table = pq.read_table(path, columns=_present(columns, file), filters=filters)
            return self._conformed(table, path, columns)

    def batches(self, path: Path, columns: Sequence[str], size: int = _ROWS_AT_ONCE) -> Iterator[pa.Table]:
        """Some rows at a time, each part a table of one chunk. Raises StaleArtefact as `read` does."""
        file = self._opened(path, columns)
        with self._readable(path):
            for batch in file.iter_batches(size, columns=_present(columns, file)):
                yield self._conformed(pa.table(batch), path, columns)

    def row_groups(self, path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Reads the table as the file is divided. Raises StaleArtefact as `read` does."""
        file = self._opened(path, columns)
        with self._readable(path):
            for group in range(file.num_row_groups):
                yield self._conformed(file.read_row_group(group, columns=_present(columns, file)), path, columns)

    def rows(self, path: Path) -> int:
        """How many there are. Raises StaleArtefact for a file that is no such table."""
        return int(self._opened(path, ()).metadata.num_rows)

    def completed(self, table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
        """The table with those columns, of all unless said, that came after it was written: nulls."""
        for name in self.schema.names if columns is None else columns:
            if name in self.null_before and name not in table.column_names:
                table = table.append_column(
                    self.schema.field(name), pa.nulls(table.num_rows, self.schema.field(name).type)
                )
        return table

    def refused(self, path: Path, why: str) -> StaleArtefact:
        return StaleArtefact(f"{path} is no table of {self.what}: {why}; {self.fix}")

    # ---- checks

    def _opened(self, path: Path, columns: Sequence[str] | None, more: Sequence[str] = ()) -> pq.ParquetFile:
        with self._readable(path):
            file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        wanted = [name for name in self.schema.names if name not in self.optional] if columns is None else columns
        for name in dict.fromkeys((*wanted, *more)):
            if name in self.null_before and name not in names:
                continue
            if names.count(name) != 1:
                raise self.refused(path, f"column {name!r} is {'missing' if name not in names else 'there twice'}")
            self._check_type(path, file.schema_arrow.field(name))
        return file

    def _check_type(self, path: Path, field: pa.Field) -> None:
        wanted = self.schema.field(field.name).type
        if _family(field.type) != _family(wanted):
            raise self.refused(path, f"column {field.name!r} is of type {field.type}, not {wanted}")

    def _conformed(self, table: pa.Table, path: Path, columns: Sequence[str] | None) -> pa.Table:
        table = self.completed(table, columns)
        for index, name in enumerate(table.column_names):
            if name not in self.schema.names:
                continue
            column, wanted = table.column(name), self.schema.field(name).type
            if column.type != wanted:
                try:
                    column = _made(column, wanted)
                except pa.ArrowException as error:
                    raise self.refused(path, f"column {name!r} does not fit {wanted} ({error})") from error
                table = table.set_column(index, name, column)
            if wrong := self._wrong(name, column):
                raise self.refused(path, f"column {name!r} {wrong}")
        return table

    def _wrong(self, name: str, column: pa.ChunkedArray) -> str | None:
        if column.null_count and name in self.never_null:
            return "has nulls"
        if name in _RANGES and len(column) > column.null_count:
            low, high = (value.as_py() for value in pc.min_max(column).values())
            least, most = _RANGES[name]
            if low < least or high > most:
                return f"has {low if low < least else high}, which is none of {least} to {most}"
        if name in _WORDS:
            for word in pc.unique(column.cast(pa.string())).to_pylist():
                if word is not None and word not in _WORDS[name]:
                    return f"has {word!r}, which is none of {', '.join(_WORDS[name])}"
        return None

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise self.refused(path, f"it cannot be read ({' '.join(str(error).split())})") from error


def form_of(
    what: str,
    fix: str,
    schema: pa.Schema,
    never_null: Collection[str] = (),
    optional: Collection[str] = (),
    null_before: Collection[str] = (),
) -> TableForm:
    """The form of a table with these columns. never_null: besides the columns of faults that never are."""
    never = frozenset({*_NEVER_NULL, *never_null} & {*schema.names})
    return TableForm(what, fix, schema, never, frozenset({*optional, *null_before}), frozenset(null_before))


RESULT_TABLE = form_of(
    "results",
    "rerun with `testbed campaign run SPEC --redo execute`",
    arrow_schema(RESULT_COLUMNS),
    ("image_id", "tier"),
    ("weight", "recovered"),
)
PLAN_TABLE = form_of(
    "planned faults",
    "rerun with `testbed campaign run SPEC --redo plan`",
    arrow_schema(PLAN_COLUMNS),
    null_before=("image_ids",),
)


def populations_of(fault_ids: NDArray[np.int64], plan: Path) -> NDArray[np.int64]:
    """Population of the stratum of each of these faults. Raises StaleArtefact for one that the plan has not."""
    table = PLAN_TABLE.read(plan, ["fault_id", "population"])
    known, population = (table.column(name).to_numpy() for name in ("fault_id", "population"))
    order = np.argsort(known, kind="stable")
    position = np.searchsorted(known, fault_ids, sorter=order)
    row = order[np.minimum(position, len(known) - 1)] if len(known) else np.zeros(len(fault_ids), np.int64)
    if len(fault_ids) and (not len(known) or (known[row] != fault_ids).any()):
        raise PLAN_TABLE.refused(plan, "it lacks faults that there are results of")
    values: NDArray[np.int64] = population[row]
    return values


def list_values(
    column: pa.ChunkedArray, position: int, width: int, path: Path, form: TableForm = RESULT_TABLE
) -> NDArray[np.float64]:
    """The value at ``position`` of each row's list of ``width``; NaN where there is no list.

    Raises StaleArtefact for lists of another length.
    """
    lists = column.combine_chunks()
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if any(length is not None and length != width for length in lengths):
        raise form.refused(path, f"the lists of a column have {lengths} values, not {width}, as the spec says")
    if not len(lists):
        return np.zeros(0)
    values: NDArray[np.float64] = pc.list_element(lists, position).to_numpy(zero_copy_only=False)
    return values


def _present(columns: Sequence[str] | None, file: pq.ParquetFile) -> list[str] | None:
    return None if columns is None else [name for name in columns if name in file.schema_arrow.names]


def _family(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_family(kind.value_type)}"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "integer"
    return "number" if pa.types.is_floating(kind) else str(kind)


def _made(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(wanted):
        return column.cast(wanted.value_type).dictionary_encode().cast(wanted)
    return column.cast(wanted)


ROW_SCHEMA = arrow_schema(ROW_COLUMNS)


RESULT_SCHEMA = arrow_schema(RESULT_COLUMNS)
