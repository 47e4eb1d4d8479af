"""A log of results as one Parquet file, in unit order: written as far as it goes while the log still grows, then to its end.

Rows that were written ahead count only if the log still holds the very frames they were read from. Whatever fails before
the end is thrown away, and everything is written then.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator
from pathlib import Path

import pyarrow as pa

from testbed.campaign.results.arrow import parquet_writer
from testbed.campaign.results.store import LogFrame, ResultLog
from testbed.core.closing import Closing
from testbed.core.folder.files import atomic_path

log = logging.getLogger(__name__)

GROUP_ROWS = 1 << 15  # a row group has so many and the rest of a frame: in memory there is one at a time
_GROUP_FRAMES = 64  # of fewer rows

_RowGroups = Generator[None, pa.Table | None, None]


class Compaction(Closing):
    """Writes the rows of units 0, 1, 2, ... of a log to ``path``, whose rows nobody sees before all are there.

    finished: adds to rows what the log does not say, so that they have the columns of ``schema``. `advance` is called in the
    thread that appends to the log.
    """

    def __init__(
        self,
        results: ResultLog,
        path: Path,
        schema: pa.Schema,
        finished: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> None:
        self._results, self._path, self._schema, self._finished = results, path, schema, finished
        self._ahead = True
        self._begin()

    def _begin(self) -> None:
        self._file: _RowGroups | None = None
        self._frames: list[LogFrame] = []
        self._next_unit = self._rows = 0
        self._group: list[pa.Table] = []

    def advance(self) -> None:
        """Reads what the log has of the next row group, and writes it if that is all. Never raises an Exception: what fails is
        tried again, and told, by `finish`."""
        if not self._ahead:
            return
        try:
            while self._next_unit in self._results and not self._is_full:
                self._read_frame()
            if self._is_full:
                self._write_group()
        except BaseException as error:  # Ctrl-C too: the file may have half a row group
            self._ahead = False
            self._give_up()
            if not isinstance(error, Exception):
                raise
            log.info("%s is written at the end: %s", self._path, error)

    def finish(self, units: int) -> int:
        """Writes what is not written of so many units, and the file is there; returns the number of rows.

        Raises KeyError for a unit that is not in the log, TestbedError where the file cannot be written.
        """
        if self._frames != list(self._results.frames(range(self._next_unit))):
            log.info("%s is written anew: rows that it had are not in the log any more", self._path)
            self._give_up()
        while self._next_unit < units:
            self._read_frame()
            if self._is_full:
                self._write_group()
        if self._group:
            self._write_group()
        with contextlib.suppress(StopIteration):
            self._opened().send(None)
        return self._rows

    def close(self) -> None:
        """Removes a file that is not finished."""
        self._give_up()

    @property
    def _is_full(self) -> bool:
        return len(self._group) >= _GROUP_FRAMES or sum(table.num_rows for table in self._group) >= GROUP_ROWS

    def _read_frame(self) -> None:
        (frame,) = self._results.frames([self._next_unit])
        self._group.append(self._results.read(self._next_unit))
        self._frames.append(frame)
        self._next_unit = frame.units.stop

    def _write_group(self) -> None:
        together = pa.concat_tables(self._group, promote_options="default").unify_dictionaries()
        table = _in_columns(self._finished(together), self._schema)
        self._opened().send(table)
        self._rows += table.num_rows
        self._group = []

    def _opened(self) -> _RowGroups:
        if self._file is None:
            self._file = _written_file(self._path, self._schema)
            next(self._file)
        return self._file

    def _give_up(self) -> None:
        if self._file is not None:
            self._file.close()
        self._begin()


def _written_file(path: Path, schema: pa.Schema) -> _RowGroups:
    """Takes row groups. None completes the file; closed before, nothing of it is left."""
    with atomic_path(path) as temporary, parquet_writer(temporary, schema) as writer:
        while (group := (yield)) is not None:
            writer.write_table(group)


def _in_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in the schema's columns; those that rows of a campaign begun by an older version lack are null."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)
