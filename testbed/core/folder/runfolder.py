"""The run folder: whose it is, and who works in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import is_utf8, sha256_json, unfinished, write_errors
from testbed.core.folder.manifest import MANIFEST, ManifestForm, StageRecord
from testbed.core.folder.parsing import json_copy
from testbed.core.folder.provenance import provenance
from testbed.core.folder.stages import StagedFolder
from testbed.core.schema import SCHEMA_VERSION

LOCK = ".lock"


class RunFolder(StagedFolder):
    """A folder that holds one run: found, claimed for a piece of work, restarted, locked.

    Raises TestbedError when the folder cannot be used, StaleArtefact when its manifest is damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._left: set[str] | None = None  # by a restart: files that are no longer part of the run

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """A folder that a command only reads. Raises UsageError when it holds no run."""
        if not (path / MANIFEST).is_file():
            why = (
                f"{MANIFEST} is missing"
                if path.is_dir()
                else "it is a file"
                if path.exists()
                else "there is no such folder"
            )
            raise UsageError(
                f"{path} holds no run ({why}); name a folder that a command wrote, as `testbed runs` lists them"
            )
        folder = cls(path)
        folder.check_records()
        return folder

    @classmethod
    def claimed(
        cls,
        path: Path,
        kind: str,
        name: str,
        identity: Any,
        argv: Sequence[str],
        same: Callable[[Any], bool] | None = None,
        *,
        redo: bool = False,
    ) -> RunFolder:
        """A folder for this one piece of work, new or begun. Raises UsageError when it holds something else.

        same: does the identity that a begun folder has recorded mean this work too? Only the very same one unless given.
        redo: a stage is to be forgotten (`redo`), and may be one whose record was edited or damaged.

        Raises StaleArtefact where any other's was.
        """
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; name a folder for the run")
        if not is_utf8(path):
            raise UsageError(
                f"{path}: its files could be written but not read, in UTF-8 paths only; choose another folder"
            )
        folder = cls(path)
        wanted = {"kind": kind, "name": name, "identity": sha256_json(identity)}
        if folder.manifest:
            if not folder._holds(wanted, same):
                held = f"{folder.manifest.get('kind')} {folder.manifest.get('name')!r}"
                raise UsageError(
                    f"{path} holds another run ({held}, other settings or seed); choose another folder with --run"
                )
            if not redo:
                folder.check_records()
            return folder
        if path.is_dir() and not set(path.iterdir()) <= {path / LOCK, *unfinished(path)}:  # of a start that was killed
            raise UsageError(f"{path} is not empty and holds no run; choose a new or empty folder with --run")
        folder.manifest = _begun(kind, name, identity, argv, {})
        return folder

    def restart(self, name: str, identity: Any, argv: Sequence[str], keep: Collection[str] = ()) -> None:
        """Gives the folder to other work of its kind, which takes over the stages in ``keep``. Nothing is written or
        removed before `clean` and `save`."""
        kept = {stage: record for stage, record in self.stages.items() if stage in keep}
        still = {file for record in kept.values() for file in record.outputs}
        self._left = {file for record in self.stages.values() for file in record.outputs} - still
        self.manifest = _begun(self.manifest["kind"], name, identity, argv, kept)
        self._damaged = {}

    def clean(self, others: Callable[[], Iterable[str]] = tuple) -> None:
        """Cleans up after a restart: removes the files of the stages that were given up, the ``others`` that no stage
        names, and folders that are then empty. What else lies in the folder stays."""
        if self._left is None:
            return
        home = self.path.resolve()
        places = [self.path / file for file in sorted({*self._left, *others()})]
        inside = [
            path for path in places if path.parent.resolve().is_relative_to(home)
        ]  # not through a link to elsewhere
        for path in inside:
            path.unlink(missing_ok=True)
        around = {parent for path in inside for parent in path.parents if self.path in parent.parents}
        for folder in sorted(around, reverse=True):
            with suppress(OSError):
                folder.rmdir()
        self._left = None

    def _holds(self, wanted: Mapping[str, Any], same: Callable[[Any], bool] | None) -> bool:
        recorded = self.manifest
        if any(recorded.get(key) != wanted[key] for key in ("kind", "name")):
            return False
        if recorded.get("identity") == wanted["identity"]:
            return True
        whole = recorded.get("identity") == sha256_json(recorded.get("spec"))
        return whole and same is not None and same(recorded["spec"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process out of the folder for the length of the block. Removes what a killed one left and, where
        nothing was written, all that was made for it: the lock, and the folders that were not there.

        Raises TestbedError when another process is at work there, or was since the manifest was read.
        """
        with write_errors(self.path):
            new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK, timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise TestbedError(
                    f"another process is working in {self.path}; wait or choose another folder"
                ) from error
        try:
            if self._content() != self._manifest_bytes:
                raise TestbedError(f"another process has just worked in {self.path}; run the same command again")
            for file in unfinished(self.path):
                file.unlink(missing_ok=True)
            yield
        finally:
            if [file.name for file in self.path.iterdir()] == [LOCK]:  # refused before anything was done
                (self.path / LOCK).unlink(missing_ok=True)
                with suppress(OSError):  # somebody else uses one of them by now
                    for folder in new:
                        folder.rmdir()
            lock.release()


def _begun(
    kind: str, name: str, identity: Any, argv: Sequence[str], stages: Mapping[str, StageRecord]
) -> dict[str, Any]:
    """The manifest of a run that has these stages of another."""
    origin = provenance(argv)
    manifest = ManifestForm(
        kind=kind,
        name=name,
        identity=sha256_json(identity),
        schema_version=SCHEMA_VERSION,
        argv=origin.argv,
        created=origin.created,
        git_revision=origin.git_revision,
        host=origin.host.to_json(),
        versions=origin.versions,
        spec=json_copy(identity),
        stages={stage: record.to_json() for stage, record in stages.items()},
    )
    return manifest.to_json()


def current_argv() -> list[str]:
    return ["testbed", *sys.argv[1:]]
