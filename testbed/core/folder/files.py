"""Whole files or none: everything is written under a temporary name and renamed; content is named by its SHA-256."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from testbed.core.errors import TestbedError

_WRITE_FAULTS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EEXIST: "a part of that path is a file; choose another folder",
    errno.ENOTDIR: "a part of that path is a file; choose another folder",
}
_UNFINISHED = ".unfinished"  # in the name of every temporary file
_being_written: set[Path] = set()


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turns an OSError while writing ``path`` into one line that says the fix."""
    try:
        yield
    except OSError as error:
        why = _WRITE_FAULTS.get(error.errno or 0, error.strerror or str(error))
        raise TestbedError(f"cannot write {path}: {why}") from error


def is_utf8(path: Path) -> bool:
    """Can the path be written in UTF-8? The libraries for safetensors and Parquet files open no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it on success and removed on failure."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f"{_UNFINISHED}{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        _being_written.add(temporary)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            _being_written.discard(temporary)


def remove_unfinished() -> None:
    """Removes what this process is writing, just before it ends in the middle of it."""
    for temporary in list(_being_written):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def scratch_folder(owner: object) -> Path:
    """A temporary folder that is gone with ``owner``."""
    path = Path(tempfile.mkdtemp(prefix="testbed-"))
    weakref.finalize(owner, shutil.rmtree, path, ignore_errors=True)
    return path


def unfinished(folder: Path) -> list[Path]:
    """Files, at any depth, that are being written, or were when their writer was killed."""
    return list(folder.rglob(f".*{_UNFINISHED}*"))


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of a JSON value, whatever the order of its keys."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV under ``columns``, those of the first row unless said; numbers read back exactly."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns or rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
