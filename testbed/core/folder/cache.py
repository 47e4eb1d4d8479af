"""The user's cache folder: things that are costly to make and named by what they were made from. Losing it loses time
only.

A cached file is taken by hard link where it is large and the file system can, and copied otherwise; its SHA-256 is checked
when it is taken, so that a damaged one is made anew. Any number of processes may take and keep at once: files appear whole,
and one that vanishes meanwhile was never there.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import atomic_path, sha256_file, unfinished, write_json
from testbed.core.folder.forms import Form
from testbed.core.folder.parsing import json_copy, json_value

log = logging.getLogger(__name__)

GOLDENS, PREPARED, ENGINES, MODELS = "goldens", "prepared", "tensorrt", "models"
KINDS = (GOLDENS, PREPARED, ENGINES, MODELS)  # the cheaper to make again, the sooner they go
LIMIT = "TESTBED_CACHE_LIMIT"  # environment variable: GiB that all cached files together may take
_USUAL_LIMIT_GIB = 4.0
LINKED_BYTES = 64 * 2**20  # files of that size are linked; smaller ones are copied, so that no two folders share them
_OLD_RECORD = ".sha256"  # of earlier versions: the checksum alone


def cache_folder() -> Path:
    """$TESTBED_CACHE, else $XDG_CACHE_HOME/testbed, else ~/.cache/testbed."""
    if own := os.environ.get("TESTBED_CACHE"):
        return Path(own).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "testbed"  # XDG: relative ones are ignored


def named_cache(asked: Path | None) -> Path | None:
    """The cache folder that the user named: ``asked``, else $TESTBED_CACHE; None where neither is given.

    Raises UsageError for a file.
    """
    own = os.environ.get("TESTBED_CACHE")
    folder = asked if asked is not None else Path(own) if own else None
    if folder is None:
        return None
    folder = folder.expanduser()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the cache")
    return folder


def limit_bytes() -> int:
    """What all cached files together may take. Raises UsageError for a limit that is no number of GiB."""
    text = os.environ.get(LIMIT, "").strip()
    try:
        limit = float(text) if text else _USUAL_LIMIT_GIB
        if not 0 <= limit < 1e9:
            raise ValueError(text)
    except ValueError as error:
        raise UsageError(f"{LIMIT}={text}: give the cache's limit in GiB, such as {LIMIT}=4, or 0 for none") from error
    return int(limit * 2**30)


class CacheRecord(Form):
    """What lies beside a cached file. facts: what its maker wants to know of it again."""

    sha256: str
    facts: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True)
class Cached:
    """One file of the cache: of a kind, named by the hash of what it is made from (``key``), with the name's ending."""

    kind: str
    key: str
    ending: str

    @property
    def path(self) -> Path:
        return cache_folder() / self.kind / f"{self.key}{self.ending}"

    @property
    def _record(self) -> Path:
        return self.path.with_suffix(".json")

    def facts(self) -> dict[str, JsonValue] | None:
        """What was kept with it; None where it is not there. Its content is not checked."""
        recorded = self._recorded()
        return None if recorded is None or not self.path.is_file() else recorded.facts

    def digest(self) -> str | None:
        """Its SHA-256 as recorded; None where it is not there."""
        recorded = self._recorded()
        return None if recorded is None or not self.path.is_file() else recorded.sha256

    def taken(self, wanted: Path) -> dict[str, JsonValue] | None:
        """Writes it to ``wanted`` and returns what was kept with it; None where there is none, or a damaged one.

        Raises TestbedError where ``wanted`` cannot be written.
        """
        recorded = self._recorded()
        if recorded is None or not self.path.is_file():
            return None
        try:
            with atomic_path(wanted) as temporary:
                link_or_copy(self.path, temporary)
                if sha256_file(temporary) != recorded.sha256:
                    raise Unusable
        except Unusable:
            return None
        with suppress(OSError):
            os.utime(self.path)  # used last: the last to go
        return recorded.facts

    def keep(self, made: Path, facts: Mapping[str, Any] | None = None) -> None:
        """Into the cache, if that can be written and is large enough; nobody needs it."""
        try:
            size = made.stat().st_size
            if size > limit_bytes() / 2:
                return
            with atomic_path(self.path) as temporary:
                link_or_copy(made, temporary)
            record = CacheRecord(sha256=sha256_file(self.path), facts=json_copy(dict(facts or {})))
            write_json(self._record, record.to_json())
            make_room()
        except (TestbedError, OSError, Unusable) as error:
            log.info("cache: %s not kept (%s)", made.name, error)

    def _recorded(self) -> CacheRecord | None:
        try:
            return CacheRecord.model_validate(json_value(self._record.read_bytes()))
        except ValidationError:
            return None
        except (OSError, ValueError):
            try:
                return CacheRecord(sha256=self.path.with_suffix(_OLD_RECORD).read_text().strip())
            except (OSError, ValueError):
                return None


class Unusable(Exception):
    """What is cached is damaged, or gone meanwhile."""


def link_or_copy(source: Path, empty: Path) -> None:
    """Gives ``empty`` the source's content, a large one's by a hard link where the file system can.

    ``empty``: a file without content, which is replaced. Raises Unusable for a source that cannot be read, OSError where
    nothing can be written."""
    with ExitStack() as stack:
        try:
            content = stack.enter_context(open(source, "rb"))
        except OSError as error:
            raise Unusable(str(error)) from error
        if os.fstat(content.fileno()).st_size >= LINKED_BYTES:
            with suppress(OSError):  # another file system, or one without links
                link = empty.with_name(f"{empty.name}.link")
                os.link(source, link)
                os.replace(link, empty)
                return
        with open(empty, "wb") as copy:
            shutil.copyfileobj(content, copy)


@dataclass(frozen=True)
class Usage:
    """Files of a kind, and their bytes; a file that a run folder shares takes no more space than that folder's own."""

    kind: str
    files: int
    bytes: int


@dataclass(frozen=True)
class CacheUsage:
    """What the cache folder holds, by kind."""

    folder: Path
    limit_bytes: int
    kinds: list[Usage]


@dataclass(frozen=True)
class CacheCleared:
    """What was removed from the cache folder, by kind."""

    folder: Path
    removed: list[Usage]


def usage(folder: Path | None = None) -> list[Usage]:
    """What lies in the cache folder (``folder``, or the usual one), by kind."""
    usages = []
    for kind in KINDS:
        sizes = [size for _, size, _ in _entries(kind, folder)]
        usages.append(Usage(kind, len(sizes), sum(sizes)))
    return usages


def clear(kinds: tuple[str, ...] = KINDS, folder: Path | None = None, unused_seconds: float = -math.inf) -> list[Usage]:
    """Removes all that is cached of these kinds and was not used for so long; returns what is gone. Data sets that lie in
    the cache folder stay."""
    gone, latest = [], time.time() - unused_seconds
    for kind in kinds:
        removed = [size for path, size, used in _entries(kind, folder) if used <= latest and _remove(path)]
        for left in unfinished((folder or cache_folder()) / kind):
            if left.exists() and left.stat().st_mtime <= latest:
                _remove(left)
        gone.append(Usage(kind, len(removed), sum(removed)))
    return gone


def make_room(folder: Path | None = None) -> None:
    """Removes goldens, then what campaigns prepared, engines, and models, what was used longest ago first, until all fit
    into the limit."""
    entries = [(kind, *entry) for kind in KINDS for entry in _entries(kind, folder)]
    over = sum(size for _, _, size, _ in entries) - limit_bytes()
    for _, path, size, _ in sorted(entries, key=lambda entry: (KINDS.index(entry[0]), entry[3])):
        if over <= 0:
            return
        if _remove(path):
            over -= size


def _entries(kind: str, folder: Path | None) -> Iterator[tuple[Path, int, float]]:
    """(path, bytes, when it was last used), of files with a record beside them, and of folders."""
    home = (folder or cache_folder()) / kind
    for path in sorted(home.iterdir()) if home.is_dir() else ():
        if path.suffix not in (".json", _OLD_RECORD) and not path.name.startswith("."):
            with suppress(OSError):
                files = path.iterdir() if path.is_dir() else [path]
                size = sum(file.stat().st_size for file in files)
                yield path, size, path.stat().st_mtime


def _remove(path: Path) -> bool:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()
    try:
        path.unlink()
    except OSError:
        return False
    for record in (path.with_suffix(".json"), path.with_suffix(_OLD_RECORD)):
        with suppress(OSError):
            record.unlink()
    return True
