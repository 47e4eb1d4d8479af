"""A folder with a manifest that says which stage wrote each file, from what.

A stage is a name, a JSON description of its inputs, and the files it writes. It is skipped when its recorded inputs are
the same and its files are untouched; an edited or truncated file, or inputs that changed under it, is refused by name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import sha256_file, write_json
from testbed.core.folder.forms import Form
from testbed.core.folder.manifest import CAMPAIGN, MANIFEST, TRAINED, Damage, StageRecord, checksummed, read_manifest
from testbed.core.folder.parsing import json_copy
from testbed.core.folder.places import plain_campaign
from testbed.core.words.nearest import unknown

log = logging.getLogger(__name__)


class StagedFolder:
    """Raises TestbedError when the folder cannot be used, StaleArtefact when its manifest is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest_bytes = self._content()
        self.manifest: dict[str, Any] = {}
        """The manifest's JSON, as its checksums are of; empty where there is none."""
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

    @property
    def kind(self) -> str | None:
        """What the folder holds, such as "campaign"; None where it holds nothing yet."""
        return self.manifest.get("kind")

    @property
    def stages(self) -> dict[str, StageRecord]:
        """What the manifest says of each stage, in the order they were done; its form was checked when it was read."""
        return {name: StageRecord.model_construct(**record) for name, record in self.manifest.get("stages", {}).items()}

    def record(self, stage: str) -> StageRecord | None:
        """What the manifest says of the stage; None where it has not been done."""
        content = self.manifest.get("stages", {}).get(stage)
        return None if content is None else StageRecord.model_construct(**content)

    def check_records(self) -> None:
        """Raises StaleArtefact for the first stage whose record was edited or damaged, saying how it is made again. One
        that a command of its own makes counts as not made, which is told."""
        for stage, damage in self._damaged.items():
            problem = f"what {self.path / MANIFEST} records of stage {stage!r} was edited or damaged ({damage.wrong})"
            if self.kind == CAMPAIGN:
                raise StaleArtefact(f"{problem}; {self._redo(stage)}")
            if damage.command is None:
                raise StaleArtefact(f"{problem}; start again in another folder")
            log.warning("%s, and is not used; run `%s %s` again", problem, damage.command, self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def save(self) -> None:
        self.manifest.update(checksummed(self.manifest))
        write_json(self.path / MANIFEST, self.manifest)
        self._manifest_bytes = self._content()

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
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
        made_from = json_copy(dict(inputs))
        record = self.record(name)
        if record is not None:
            try:
                self._check_inputs(name, record.inputs, made_from)
                self.verify(name)
                return dict(record.facts)
            except StaleArtefact:
                if command is None:
                    raise
        start = time.perf_counter()
        built = build()
        facts = built.to_json() if isinstance(built, Form) else dict(built or {})
        made = StageRecord(
            inputs=made_from,
            outputs={file: sha256_file(self.path / file) for file in files},
            facts=json_copy(facts),
            seconds=round(time.perf_counter() - start, 3),
            **({"command": command} if command else {}),
        )
        self.manifest["stages"][name] = made.to_json()
        self.save()
        return facts

    def _check_inputs(self, stage: str, recorded: Any, inputs: Any) -> None:
        if recorded != inputs:
            changed = _first_difference(recorded, inputs)
            raise StaleArtefact(f"stage {stage!r} was made from another {changed}; {self.again(stage)}")

    def again(self, stage: str) -> str:
        """How a person has a stage's files made again."""
        if (record := self.record(stage)) and record.command:
            return f"run `{record.command} {self.path}` again"
        return self._redo(stage)

    def _redo(self, stage: str) -> str:
        """How to redo a stage: by the one command that has the option; commands that only read the folder say so,
        too."""
        if self.kind == CAMPAIGN:
            home = plain_campaign(self.path)
            where, name = (self.path, stage) if home is None else (home, f"protected.{stage}")
            return f"rerun it with `testbed campaign run SPEC --run {where} --redo {name}`"
        if stage == TRAINED:
            return f"rerun it with `testbed train ... --run {self.path} --redo {stage}`"
        return "start again in another folder"

    def verify(self, stage: str, files: Collection[str] | None = None) -> None:
        """Raises StaleArtefact when a file of the stage is missing or is not what the stage wrote.

        ``files``: only these of the stage's, where the others are large and not to be read.
        """
        record = self.record(stage)
        if record is None:
            raise StaleArtefact(f"{self.path} has no {stage!r} stage yet; run the campaign to the end first")
        for file, digest in record.outputs.items():
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
        stage = next((name for name in self.stages if file in self.stages[name].outputs), None)
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
        record = self.record(stage)
        if record is None:
            raise StaleArtefact(f"{self.path} has no {stage!r} stage yet; run the campaign to the end first")
        if file not in record.outputs:
            raise StaleArtefact(f"{self.path / MANIFEST} records no {file} of stage {stage!r}; {self.again(stage)}")
        return record.outputs[file]


def _first_difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return str(key)
    return "input"
