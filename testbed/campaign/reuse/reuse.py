"""Taking a stage, or what a gate showed, from the cache instead of making it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from testbed.campaign.cache_note import CacheNote
from testbed.campaign.reuse.entries import DamagedEntry, Entry, EntryFolder, key_of
from testbed.campaign.reuse.made_by import made_by
from testbed.core.errors import TestbedError
from testbed.core.folder.cache import named_cache
from testbed.core.folder.forms import Form
from testbed.core.folder.provenance import git_revision

log = logging.getLogger(__name__)

BuildStage = Callable[[], Form | Mapping[str, Any] | None]
"""Makes a stage's files, and may return facts: see `StagedFolder.stage`."""


_revision = cache(git_revision)


@dataclass(frozen=True)
class Reuse:
    """What may be taken from the cache, and kept there.

    cache: its folder; None where the user named none: nothing is taken or kept. anew: stages that are made again whatever
    the cache holds, and kept in place of that. backend: the campaign's engine.
    """

    cache: Path | None = None
    anew: frozenset[str] = frozenset()
    backend: str | None = None

    @classmethod
    def named(cls, asked: Path | None, backend: str, anew: Iterable[str] = ()) -> Reuse:
        """The cache that the user named, by an option or by $TESTBED_CACHE. Raises UsageError for a file."""
        return cls(named_cache(asked), frozenset(anew), backend)

    def stage(
        self,
        stage: str,
        folder: Path,
        made_from: Mapping[str, Any],
        files: Sequence[str],
        build: BuildStage,
        *,
        on_engine: bool = False,
    ) -> BuildStage:
        """A stage's ``build`` that takes files and facts from the cache where they are there, and keeps them otherwise.

        made_from: all that the stage depends on, as JSON, but the program and the machine. files: that it writes, relative
        to ``folder``. on_engine: whether the campaign's engine takes part. The facts of what was taken have a `CacheNote`
        under "cache".
        """
        if self.cache is None:
            return build
        paths = {Path(file).name: folder / file for file in files}

        def taken_or_built() -> Mapping[str, Any]:
            whole = self.with_program(made_from, on_engine)
            if (entry := self.take(stage, whole, paths)) is not None:
                log.info("%s: taken from the cache, as made on %s", stage, entry.note.date)
                return {**entry.facts, "cache": entry.note.to_json()}
            start = time.perf_counter()
            built = build()
            facts = built.to_json() if isinstance(built, Form) else dict(built or {})
            self.keep(stage, whole, facts, time.perf_counter() - start, paths)
            return facts

        return taken_or_built

    def with_program(self, made_from: Mapping[str, Any], on_engine: bool) -> dict[str, Any]:
        """All that something depends on: what it is made from, and what on this machine makes it."""
        return {**made_from, "made_by": made_by(self.backend if on_engine else None)}

    def take(self, name: str, made_from: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> Entry | None:
        """The entry of a stage or of a part of one ("gates.rows"), its files written; None where there is none, and where
        it is damaged, which is told, or not wanted: it is then removed.

        made_from: with the program. files: name -> where it is wanted.
        """
        if self.cache is None:
            return None
        entries, key = EntryFolder(self.cache), key_of(name, made_from)
        if any(name == stage or name.startswith(f"{stage}.") for stage in self.anew):
            self.forget(key)
            return None
        try:
            return entries.take(name, made_from, files or {})
        except DamagedEntry as damage:
            log.warning("cache: %s is not used, since %s; %s is made again", entries.path(key), damage, name)
            self.forget(key)
            return None

    def keep(
        self,
        name: str,
        made_from: Mapping[str, Any],
        facts: Mapping[str, Any],
        seconds: float,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        """Keeps what was made, for the next campaign; a cache that cannot be written is told, and nothing more."""
        if self.cache is None:
            return
        note = CacheNote(
            key=key_of(name, made_from),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            versions=made_from["made_by"]["versions"],
            revision=_revision(),
        )
        try:
            EntryFolder(self.cache).keep(name, made_from, files or {}, facts, note)
        except TestbedError as error:
            log.warning("cache: %s is not kept: %s", name, error)

    def forget(self, key: str) -> None:
        """Removes an entry, where that can be."""
        try:
            if self.cache is not None and EntryFolder(self.cache).path(key).exists():
                EntryFolder(self.cache).forget(key)
        except TestbedError as error:
            log.warning("cache: %s", error)


NO_REUSE = Reuse()
"""Nothing is taken from a cache, and nothing kept."""
