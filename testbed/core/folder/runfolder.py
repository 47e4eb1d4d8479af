"""The run folder: named files, and one manifest that says which stage wrote each of them, from what.

A stage is a name, a JSON description of its inputs, and the files it writes. It is skipped when its recorded inputs are
the same and its files are untouched; an edited or truncated file, or inputs that changed under it, is refused by name.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from testbed.core.errors import StaleArtefact, TestbedError, UsageError
from testbed.core.folder.files import is_utf8, sha256_file, sha256_json, unfinished, write_errors, write_json
from testbed.core.folder.forms import Form
from testbed.core.folder.manifest import Damage, checksummed, read_manifest
from testbed.core.folder.provenance import provenance
from testbed.core.schema import SCHEMA_VERSION
from testbed.core.words.nearest import unknown

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CAMPAIGN = "campaign"  # the kind whose stages are made again with --redo
TRAINED = "train"  # the one stage of other kinds that is, too
LOCK = ".lock"


class RunFolder:
    """Raises TestbedError when the folder cannot be used, StaleArtefact when its manifest is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest_bytes = self._content()
        self.manifest: dict[str, Any] = {}
        self._left: set[str] | None = None  # by a restart: files that are no longer part of the run
        self._damaged: dict[str, Damage] = {}
        """Stages whose records were edited or damaged, and how; they are not in ``manifest``."""
        if self._manifest_bytes is not None:
            self.manifest, self._damaged = read_manifest(self._manifest_bytes, path / MANIFEST)

    def _content(self) -> bytes | None:
        file = self.path / MANIFEST
        try:
            return file.read_bytes() if file.exists() else None
        except OSError as error:  # a folder of that name, a disk that fails
            raise StaleArtefact(f"{file} cannot be read ({error.strerror}); start again in another folder") from error

    def check_records(self) -> None:
        """Raises StaleArtefact for the first stage whose record was edited or damaged, saying how it is made again. One
        that a command of its own makes counts as not made, which is told."""
        for stage, damage in self._damaged.items():
            problem = f"what {self.path / MANIFEST} records of stage {stage!r} was edited or damaged ({damage.wrong})"
            if self.manifest["kind"] == CAMPAIGN:
                raise StaleArtefact(f"{problem}; {self._redo(stage)}")
            if damage.command is None:
                raise StaleArtefact(f"{problem}; start again in another folder")
            log.warning("%s, and is not used; run `%s %s` again", problem, damage.command, self.path)

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
        folder.manifest = _begun(kind, name, identity, argv)
        return folder

    def restart(self, name: str, identity: Any, argv: Sequence[str], keep: Collection[str] = ()) -> None:
        """Gives the folder to other work of its kind, which takes over the stages in ``keep``. Nothing is written or
        removed before `clean` and `save`."""
        stages = self.manifest["stages"]
        kept = {stage: record for stage, record in stages.items() if stage in keep}
        still = {file for record in kept.values() for file in record["outputs"]}
        self._left = {file for record in stages.values() for file in record["outputs"]} - still
        self.manifest = {**_begun(self.manifest["kind"], name, identity, argv), "stages": kept}
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
        for folder in sorted({path.parent for path in inside} - {self.path}, reverse=True):
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

    def __truediv__(self, name: str) -> Path:
        return self.path / name

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

    def save(self) -> None:
        self.manifest.update(checksummed(self.manifest))
        write_json(self.path / MANIFEST, self.manifest)
        self._manifest_bytes = self._content()

    def stage(
        self,
        name: str,
        inputs: Any,
        files: Sequence[str],
        build: Callable[[], Form | Mapping[str, Any] | None],
        *,
        command: str | None = None,
    ) -> dict[str, Any]:
        """Runs ``build`` unless it has been done with the same inputs; returns the facts it reported.

        ``build`` writes every one of ``files`` (whole or not at all) and may return facts, which are kept in the
        manifest. Raises StaleArtefact for files that changed since, or for other inputs. With ``command``, the one that
        the user gave to have this very stage made ("testbed golden"), it is made again instead.
        """
        record = self.manifest["stages"].get(name)
        if record is not None:
            try:
                self._check_inputs(name, record["inputs"], json.loads(json.dumps(inputs)))
                self.verify(name)
                return dict(record["facts"])
            except StaleArtefact:
                if command is None:
                    raise
        start = time.perf_counter()
        built = build()
        facts = built.to_json() if isinstance(built, Form) else dict(built or {})
        self.manifest["stages"][name] = {
            "inputs": json.loads(json.dumps(inputs)),
            "outputs": {file: sha256_file(self.path / file) for file in files},
            "facts": facts,
            "seconds": round(time.perf_counter() - start, 3),
            **({"command": command} if command else {}),
        }
        self.save()
        return facts

    def _check_inputs(self, stage: str, recorded: Any, inputs: Any) -> None:
        if recorded != inputs:
            changed = _first_difference(recorded, inputs)
            raise StaleArtefact(f"stage {stage!r} was made from another {changed}; {self.again(stage)}")

    def again(self, stage: str) -> str:
        """How a person has a stage's files made again."""
        if command := self.manifest["stages"][stage].get("command"):
            return f"run `{command} {self.path}` again"
        return self._redo(stage)

    def _redo(self, stage: str) -> str:
        """How to redo a stage: by the one command that has the option; commands that only read the folder say so,
        too."""
        if self.manifest.get("kind") == CAMPAIGN:
            return f"rerun it with `testbed campaign run SPEC --run {self.path} --redo {stage}`"
        if stage == TRAINED:
            return f"rerun it with `testbed train ... --run {self.path} --redo {stage}`"
        return "start again in another folder"

    def verify(self, stage: str, files: Collection[str] | None = None) -> None:
        """Raises StaleArtefact when a file of the stage is missing or is not what the stage wrote.

        ``files``: only these of the stage's, where the others are large and not to be read.
        """
        record = self.manifest.get("stages", {}).get(stage)
        if record is None:
            raise StaleArtefact(f"{self.path} has no {stage!r} stage yet; run the campaign to the end first")
        for file, digest in record["outputs"].items():
            path = self.path / file
            if files is not None and file not in files:
                continue
            if not path.is_file():
                raise StaleArtefact(f"{path} is missing; {self.again(stage)}")
            if sha256_file(path) != digest:
                raise StaleArtefact(
                    f"{path} was edited or truncated since stage {stage!r} wrote it; {self.again(stage)}"
                )

    def verify_file(self, file: str) -> None:
        """`verify` of one file, by whichever stage it was written."""
        stages = self.manifest.get("stages", {})
        stage = next((name for name, record in stages.items() if file in record["outputs"]), None)
        if stage is None:
            raise StaleArtefact(f"{self.path} has no {file} yet; run the campaign to the end first")
        self.verify(stage, [file])

    def redo(self, stage: str, order: Sequence[str]) -> None:
        """Forgets a stage and all later ones of ``order``; one that is not among them, where its record was damaged.

        Raises UsageError for an unknown stage, StaleArtefact where the record of a stage that is kept was damaged.
        """
        if stage not in order and stage not in self._damaged:
            raise UsageError(unknown("stage", stage, order))
        for later in order[order.index(stage) :] if stage in order else [stage]:
            self.manifest["stages"].pop(later, None)
            self._damaged.pop(later, None)
        self.check_records()

    def output_hash(self, stage: str, file: str) -> str:
        """Raises StaleArtefact for a file that the stage has not written."""
        record = self.manifest["stages"].get(stage)
        if record is None:
            raise StaleArtefact(f"{self.path} has no {stage!r} stage yet; run the campaign to the end first")
        if file not in record["outputs"]:
            raise StaleArtefact(f"{self.path / MANIFEST} records no {file} of stage {stage!r}; {self.again(stage)}")
        return str(record["outputs"][file])


def _begun(kind: str, name: str, identity: Any, argv: Sequence[str]) -> dict[str, Any]:
    """The manifest of a run without any stage."""
    return {
        "kind": kind,
        "name": name,
        "identity": sha256_json(identity),
        "schema_version": SCHEMA_VERSION,
        **provenance(argv),
        "spec": identity,
        "stages": {},
    }


def _first_difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return str(key)
    return "input"


def current_argv() -> list[str]:
    return ["testbed", *sys.argv[1:]]
