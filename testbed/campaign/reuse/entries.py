"""Entries of the cache: what a stage made, named by the hash of all that it was made from, checked when it is taken.

An entry is a folder with a record and the stage's files. It appears whole: it is written under another name and renamed.
Its record names what it was made from, and has a checksum of itself and one of each file, so that a damaged, truncated,
renamed or edited entry is known as such. Any number of processes may take and keep entries at once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field, JsonValue, ValidationError

from testbed.campaign.cache_note import CacheNote
from testbed.core.folder.cache import PREPARED, Unusable, limit_bytes, link_or_copy, make_room
from testbed.core.folder.files import atomic_path, sha256_file, sha256_json, write_errors, write_json
from testbed.core.folder.forms import Form, first_wrong
from testbed.core.folder.manifest import Sha256
from testbed.core.folder.parsing import json_copy, json_value

RECORD = "entry.json"
_UNFINISHED = ".unfinished"
_ABANDONED_SECONDS = 86_400.0  # no process takes so long to write an entry


class Entry(Form):
    """The record of an entry. made_from: JSON whose hash is the entry's key; files: SHA-256 of each; facts: what the stage
    reported; note: when and by what it was made; checksum: of all that, None while it is computed."""

    format: Literal[1] = 1
    stage: str
    made_from: dict[str, JsonValue]
    files: dict[str, Sha256]
    facts: dict[str, JsonValue]
    note: CacheNote
    checksum: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = None

    @property
    def content_sum(self) -> str:
        """The checksum that belongs to its content."""
        return sha256_json(self.model_dump(exclude={"checksum"}))


class DamagedEntry(Exception):
    """An entry that is not as it was written, and why."""


def key_of(stage: str, made_from: Mapping[str, Any]) -> str:
    """Name of a stage's entry: hash of all that it is made from."""
    return sha256_json({"stage": stage, **json_copy(dict(made_from))})


@dataclass(frozen=True)
class EntryFolder:
    """The entries in a cache folder."""

    cache: Path

    def path(self, key: str) -> Path:
        """The folder of one entry, there or not."""
        return self.cache / PREPARED / key

    def take(self, stage: str, made_from: Mapping[str, Any], files: Mapping[str, Path]) -> Entry | None:
        """Writes an entry's files to where they are wanted (name -> path); None where there is no such entry.

        Raises DamagedEntry where there is one that is not as it was written, TestbedError where a file cannot be written.
        """
        key = key_of(stage, made_from)
        folder = self.path(key)
        if not folder.exists():
            return None
        entry = _recorded(folder / RECORD)
        if entry.checksum != entry.content_sum:
            raise DamagedEntry("its record was edited or damaged")
        if entry.stage != stage or key_of(entry.stage, entry.made_from) != key or entry.note.key != key:
            raise DamagedEntry("it was made from something else")
        if entry.files.keys() != files.keys():
            raise DamagedEntry("it has other files")
        for name, wanted in files.items():
            with atomic_path(wanted) as temporary:
                try:
                    link_or_copy(folder / name, temporary)
                except Unusable as error:
                    raise DamagedEntry(f"{name} cannot be read") from error
                if sha256_file(temporary) != entry.files[name]:
                    raise DamagedEntry(f"{name} was edited or truncated")
        with suppress(OSError):
            folder.touch()  # used last: the last to go
        return entry

    def keep(
        self,
        stage: str,
        made_from: Mapping[str, Any],
        files: Mapping[str, Path],
        facts: Mapping[str, Any],
        note: CacheNote,
    ) -> None:
        """Keeps what a stage made, unless another process has meanwhile, or it is more than half of the cache's limit.

        Raises TestbedError where it cannot be written.
        """
        folder = self.path(note.key)
        with write_errors(folder):
            if folder.exists() or sum(path.stat().st_size for path in files.values()) > limit_bytes() / 2:
                return
            with self._unfinished(note.key) as temporary:
                for name, path in files.items():
                    (temporary / name).touch()
                    link_or_copy(path, temporary / name)
                entry = Entry(
                    stage=stage,
                    made_from=json_copy(dict(made_from)),
                    files={name: sha256_file(temporary / name) for name in files},
                    facts=json_copy(dict(facts)),
                    note=note,
                )
                write_json(temporary / RECORD, entry.model_copy(update={"checksum": entry.content_sum}).model_dump())
                try:
                    temporary.rename(folder)
                except OSError:
                    if not folder.exists():  # else another process was faster
                        raise
            make_room(self.cache)

    def forget(self, key: str) -> None:
        """Removes an entry: it is gone at once, and never half there. Raises TestbedError where it cannot be removed."""
        with write_errors(self.path(key)), self._unfinished(key) as away, suppress(FileNotFoundError):
            self.path(key).rename(away / key)

    @contextmanager
    def _unfinished(self, key: str) -> Iterator[Path]:
        """A folder of another name, removed in the end; and away with those of processes that were killed long ago."""
        home = self.cache / PREPARED
        home.mkdir(parents=True, exist_ok=True)
        for left in home.glob(f".*{_UNFINISHED}"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        temporary = home / f".{key}.{uuid4().hex}{_UNFINISHED}"
        temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _recorded(path: Path) -> Entry:
    """Raises DamagedEntry."""
    try:
        return Entry.model_validate(json_value(path.read_bytes()))
    except OSError as error:
        raise DamagedEntry(f"{path.name} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise DamagedEntry(f"{path.name} is not a record ({first_wrong(error)})") from error
    except ValueError as error:
        raise DamagedEntry(f"{path.name} is damaged ({error})") from error
