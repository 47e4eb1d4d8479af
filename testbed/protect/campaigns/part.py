"""The protected part of a campaign with a [protect] table, stage by stage: the model, its campaign, the comparison.

All of it lies in the plain campaign's folder, whose manifest has the stages `protect` and `comparison`; the protected campaign
is a run folder of its own below. Each stage is made once, and gone on with where it stopped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from testbed.campaign.files import RESULTS, STORE, Files
from testbed.campaign.folder.claim import differences
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.prepare.subjects import subject_of
from testbed.campaign.results.store import ResultLog
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import write_bytes
from testbed.core.folder.places import COMPARISON, PROTECTED_CAMPAIGN, PROTECTED_MODEL, portable
from testbed.core.folder.runfolder import RunFolder
from testbed.core.protected import STAGE, protected_file
from testbed.models.runs import MODEL, ModelRun
from testbed.protect.campaigns.requested import (
    FILE,
    check_plain,
    data_source,
    protect_request,
    protect_table,
    protected_spec,
)
from testbed.protect.campaigns.sketch import ProtectedSketch
from testbed.protect.checked import JudgedFile, make_checked
from testbed.protect.paired.compare import compare_protected
from testbed.protect.paired.record import ProtectionComparison
from testbed.protect.paired.stored import COMPARED, read_comparison
from testbed.protect.run import protect_model_run

log = logging.getLogger(__name__)

_PLAIN = Files("model").plain

WriteComparison = Callable[[ProtectionComparison, Path], Sequence[Path]]
"""Writes a comparison into a folder, as `comparison.json` and whatever else is made of it."""


class ProtectedPart:
    """What a [protect] table adds to the campaign in ``path``. Raises UsageError for what cannot be asked for.

    Attributes:
        spec: The protected campaign.
        campaign: Its folder.
    """

    def __init__(self, asked: CampaignSpec, path: Path) -> None:
        self.asked, self.path = asked, path
        self.table, self.request = protect_table(asked), protect_request(asked)
        self.spec = protected_spec(asked, path)
        self.campaign = path / PROTECTED_CAMPAIGN

    def check(self, fresh: bool = False, redo: bool = False) -> None:
        """Refuses what cannot be protected, and what the engine cannot run, before anything is run for it. fresh, redo: whether
        the campaign, or its protection, is to be given up first.

        Raises UsageError; nothing is looked at where the model was protected already.
        """
        held = RunFolder(self.path) if self.path.is_dir() and not fresh else None
        if held is not None and STAGE in held.stages:
            self._check_same(held, redo)
            return
        self.sketched(held if held is not None and held.manifest else None)

    def sketched(self, held: RunFolder | None = None) -> ProtectedSketch:
        """The subject of the protected campaign before there is one, checked: what cannot be protected or run is refused, with
        UsageError. held: the plain campaign's folder, where it was begun."""
        subject = subject_of(self.asked.plain, held)
        check_plain(self.asked, subject)
        sketch = ProtectedSketch.of(self.spec, subject, self.request, self.table)
        sketch.check_sites()
        sketch.check_engine()
        return sketch

    def drawn_spec(self, folder: RunFolder) -> CampaignSpec:
        """The protected campaign, whose persistent faults are run on as many images as the plain campaign's. folder: the plain
        one's, finished."""
        plain = Workplace(folder, self.asked.plain)
        return self.spec.with_images({key: plain.images_each(*key) for key in self.spec.auto_places})

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Keeps other processes out of the plain campaign's folder, which is read anew."""
        folder = RunFolder.existing(self.path)
        with folder.locked():
            yield folder

    def protect(self, folder: RunFolder, redo: bool = False) -> None:
        """The stage that writes the protected model. folder: locked; redo: forgets it first, with all that rests on it.

        Raises GateFailed for a file that does not keep what it promises; UsageError for other settings than those that faults
        were run with.
        """
        if redo or (STAGE in folder.stages and self._has_changed(folder)):
            self._check_same(folder, redo)
            folder.redo(STAGE, [STAGE, COMPARISON, "report"])
        inputs = {"plain": folder.output_hash("export.model", _PLAIN), "protect": self._identity()}
        own = [FILE]
        if self.asked.model.onnx is None:
            (precision,) = self.request.precisions
            own = [f"{PROTECTED_MODEL}/{file}" for file in (MODEL, protected_file(precision))]
        folder.stage(STAGE, inputs, own, lambda: self._write_model(folder))

    def compare(self, folder: RunFolder, write: WriteComparison) -> ProtectionComparison:
        """The stage that writes what protection bought, and that comparison. folder: locked."""
        protected = RunFolder.existing(self.campaign)
        inputs = {
            "plain": folder.output_hash("execute", RESULTS),
            "protected": protected.output_hash("execute", RESULTS),
        }
        record = folder.record(COMPARISON)
        if record is not None and record.inputs != inputs:
            folder.redo(COMPARISON, [COMPARISON, "report"])

        def build() -> None:
            log.info("comparison: the same faults of %s and %s", RESULTS, f"{PROTECTED_CAMPAIGN}/{RESULTS}")
            write(compare_protected(self.path, self.campaign), self.path / COMPARISON)

        folder.stage(COMPARISON, inputs, [COMPARED], build)
        compared = read_comparison(folder)
        assert compared is not None
        return compared

    def _identity(self) -> dict[str, Any]:
        """What tells one protection of the model from another."""
        values: dict[str, Any] = portable({"protect": self.table.model_dump(mode="json")})
        return dict(values["protect"])

    def _has_changed(self, folder: RunFolder) -> bool:
        record = folder.record(STAGE)
        return record is not None and record.inputs.get("protect") != self._identity()

    def _check_same(self, folder: RunFolder, redo: bool = False) -> None:
        """Raises UsageError for another protection than the one that faults were run with."""
        if redo or not self._has_changed(folder) or not _has_rows(self.campaign):
            return
        recorded: Any = folder.stages[STAGE].inputs.get("protect")
        differing = differences({"protect": recorded}, {"protect": self._identity()})
        raise UsageError(
            f"{self.path} holds another protected campaign, and faults were run in it. What differs here: {differing}. Go back"
            " to its settings, choose another folder with --run, or give up its rows with --redo protect"
        )

    def _write_model(self, folder: RunFolder) -> dict[str, Any]:
        for part in (PROTECTED_MODEL, PROTECTED_CAMPAIGN):  # of a start that was killed, or of another protection
            shutil.rmtree(self.path / part, ignore_errors=True)
        subject = subject_of(self.asked.plain, folder)
        plain = onnx.load(str(folder / _PLAIN))

        def notify(line: str) -> None:
            log.info("protect: %s", line)

        if self.asked.model.onnx is not None:
            data = self.asked.data
            root = None if data is None else data.root
            judged = JudgedFile(plain, self.request.precisions[0], str(self.path), subject.dataset, root)
            made, ensured = make_checked(judged, self.request.passes, self.request.measured, notify)
            (self.path / PROTECTED_MODEL).mkdir(parents=True, exist_ok=True)
            write_bytes(folder / FILE, made.proto.SerializeToString(deterministic=True))
            return {"ensured": ensured.to_json()}
        run = ModelRun(folder, "train", data_source(self.asked, subject))
        weighed = self.table.by not in (None, "measured") and self.asked.model.run is not None
        done = protect_model_run(
            run,
            self.path / PROTECTED_MODEL,
            self.request,
            plain=plain,
            scored=Path(str(self.asked.model.run)) if weighed else None,
            notify=notify,
        )
        return {"ensured": [file.ensured.to_json() for file in done.files]}


def _has_rows(campaign: Path) -> bool:
    """Whether a fault was run in the protected campaign."""
    try:
        folder = RunFolder.existing(campaign)
    except TestbedError:
        return False
    return "execute" in folder.stages or len(ResultLog(folder / STORE)) > 0
