"""Never lose a row: an append-only log of framed, checksummed results.

One frame holds the rows of one unit of work, or of several that follow each other, as an Arrow stream. A frame that a
kill cut short, or that does not match its checksum, is not there: its units are run again. Units may arrive in any order.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from testbed.campaign.results.arrow import from_stream, to_stream
from testbed.core.closing import Closing
from testbed.core.errors import TestbedError
from testbed.core.folder.files import write_errors, write_text

log = logging.getLogger(__name__)

_MAGIC = b"TBF1"  # the payload is one unit's stream
_MAGIC_SEVERAL = b"TBF2"  # the payload is the number of units, and their stream
_MAGIC_DROPPED = b"TBD1"  # the payload is a number of units: an earlier frame of theirs is not there any more
_COUNT = struct.Struct("<I")
_MOST_UNITS = 1 << 16  # of one frame; a log that says more was not written here
_HEADER = struct.Struct("<4sIQ32s")  # magic, unit, payload bytes, SHA-256 of unit and payload
_SEGMENT = re.compile(r"segment-\d{5,}\.log")
SEGMENT_BYTES = 64 * 2**20


class LogFrame(NamedTuple):
    """Where a stream lies, in bytes of its segment, and the units whose rows it has. dropped: that it has no more."""

    segment: Path
    start: int
    size: int
    units: range
    dropped: bool = False


class ResultLog:
    """What is in a log, as it is now: to look into it, also while another process writes. Changes nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frames: dict[int, LogFrame] = {}  # of every unit
        for segment in self._segments():
            self._scan(segment)

    def _segments(self) -> list[Path]:
        return sorted(file for file in self._folder.glob("segment-*.log") if _SEGMENT.fullmatch(file.name))

    def _scan(self, segment: Path) -> tuple[int, int]:
        """Notes every whole frame; returns where the last one ends, and the segment's size."""
        with open(segment, "rb") as file:
            end = 0
            while frame := _read_frame(file, segment):
                self._note(frame)
                end = frame.start + frame.size
            return end, file.seek(0, os.SEEK_END)

    def _note(self, frame: LogFrame) -> None:
        """The first frame of a unit stands; one that has a unit of another's is as if it were not there."""
        if frame.dropped:
            for unit in frame.units:
                self._frames.pop(unit, None)
        elif not any(unit in self._frames for unit in frame.units):
            self._frames |= dict.fromkeys(frame.units, frame)

    def __contains__(self, unit: int) -> bool:
        return unit in self._frames

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def frames(self, units: Iterable[int]) -> Iterator[LogFrame]:
        """Those of these units, ascending, each once. Raises KeyError for a unit that is not there."""
        for unit in units:
            frame = self._frames[unit]
            if unit == frame.units.start:
                yield frame

    def stream(self, unit: int) -> bytes:
        """The rows of the unit's frame, as they were appended: an Arrow IPC stream."""
        frame = self._frames[unit]
        with open(frame.segment, "rb") as file:
            file.seek(frame.start)
            return file.read(frame.size)

    def read(self, unit: int) -> pa.Table:
        """The rows of the unit's frame."""
        return from_stream(self.stream(unit))

    def tables(self, units: Iterable[int]) -> Iterator[pa.Table]:
        """All rows of these units, ascending, a frame at a time. Raises KeyError for a unit that is not there."""
        return (self.read(frame.units.start) for frame in self.frames(units))


class ResultStore(ResultLog, Closing):
    """The log in a folder of segments. One writer at a time (the run folder's lock sees to it)."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Opens or makes the log of one plan, cut into units in one way: ``identity`` is a hash of both. A segment is cut
        off where it is damaged, and what was there is run again. Raises TestbedError for another's log."""
        self._file: FileIO | None = None
        owner = folder / "plan"
        if not owner.exists():
            write_text(owner, identity)
        written = owner.read_bytes() if owner.is_file() else b""
        if not re.fullmatch(rb"[0-9a-f]{64}", written) and written != identity.encode():
            raise TestbedError(
                f"{owner} is damaged: whose results lie there is not known; rerun with"
                " `testbed campaign run SPEC --redo execute`"
            )
        if written != identity.encode():
            raise TestbedError(
                f"{folder} holds results of another plan; rerun with `testbed campaign run SPEC --redo plan`"
            )
        super().__init__(folder)

    def _scan(self, segment: Path) -> tuple[int, int]:
        end, size = super()._scan(segment)
        if end < size:
            log.info(
                "%s: %d bytes after its last whole frame are dropped; those units are run again", segment, size - end
            )
            with write_errors(segment):
                os.truncate(segment, end)
        return end, end

    def drop(self, units: range) -> None:
        """Takes one frame's units out of the log, for good, so that others can be appended. Raises TestbedError as
        `append`."""
        assert self._frames[units.start].units == units, f"units {units} are not one frame"
        frame = self._write(_MAGIC_DROPPED, units.start, _COUNT.pack(len(units)))
        self._note(frame._replace(units=units, dropped=True))

    def append(self, unit: int, rows: pa.Table | bytes, count: int = 1) -> None:
        """Writes the rows (a table, or an Arrow IPC stream) of ``count`` units from this one on, and waits until they are
        on disk.

        Raises TestbedError when they cannot be; the log is then as it was.
        """
        stream = rows if isinstance(rows, bytes) else to_stream(rows)
        if count == 1:
            frame = self._write(_MAGIC, unit, stream)
        else:
            whole = self._write(_MAGIC_SEVERAL, unit, _COUNT.pack(count) + stream)
            frame = whole._replace(start=whole.start + _COUNT.size, size=len(stream), units=range(unit, unit + count))
        self._note(frame)

    def _write(self, magic: bytes, unit: int, payload: bytes) -> LogFrame:
        with write_errors(self._folder):
            file = self._current()
            start = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, _HEADER.pack(magic, unit, len(payload), _digest(unit, payload)) + payload)
                os.fsync(file.fileno())
            except BaseException:  # Ctrl-C too: the next frame must follow a whole one
                self._give_up(file, start)
                raise
        return LogFrame(Path(str(file.name)), start + _HEADER.size, len(payload), range(unit, unit + 1))

    def _current(self) -> FileIO:
        if self._file is not None and self._file.tell() >= SEGMENT_BYTES:
            self._file.close()
            self._file = None
        if self._file is None:
            last = max((int(segment.stem.removeprefix("segment-")) for segment in self._segments()), default=-1)
            self._file = FileIO(self._folder / f"segment-{last + 1:05d}.log", "x")
            _sync_folder(self._folder)
        return self._file

    def _give_up(self, file: FileIO, start: int) -> None:
        """Takes a half-written frame back; if even that fails, the next scan will."""
        try:
            file.truncate(start)
        finally:
            file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def discard_log(folder: Path) -> None:
    """Removes the log in ``folder``, if there is one: segments first, as they must never outlive their plan's name."""
    if folder.is_dir():
        for file in sorted(folder.iterdir(), reverse=True):
            if file.is_dir() and not file.is_symlink():  # none of ours
                shutil.rmtree(file)
            else:
                file.unlink()
        folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """Syncs the folder, so that a new file's name survives a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_all(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _digest(unit: int, payload: bytes) -> bytes:
    return hashlib.sha256(struct.pack("<I", unit) + payload).digest()


def _read_frame(file: BinaryIO, segment: Path) -> LogFrame | None:
    """The next frame, or None where no whole, intact one follows."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, unit, size, digest = _HEADER.unpack(header)
    if magic not in (_MAGIC, _MAGIC_SEVERAL, _MAGIC_DROPPED):
        return None
    start = file.tell()
    if size > os.fstat(file.fileno()).st_size - start:  # cut short, or a damaged size
        return None
    payload = file.read(size)
    if _digest(unit, payload) != digest:
        return None
    if magic == _MAGIC:
        return LogFrame(segment, start, size, range(unit, unit + 1))
    if size < _COUNT.size or not 0 < (count := _COUNT.unpack_from(payload)[0]) <= _MOST_UNITS:
        return None
    return LogFrame(
        segment, start + _COUNT.size, size - _COUNT.size, range(unit, unit + count), magic == _MAGIC_DROPPED
    )
