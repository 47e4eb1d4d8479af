"""Which subject a campaign has: a model of the testbed, a user's ONNX file, or what its run folder has kept of either."""

from __future__ import annotations

import logging
from pathlib import Path

from testbed.campaign.prepare.onnx_file import OnnxSubject
from testbed.campaign.prepare.protected_model import ProtectedSubject
from testbed.campaign.prepare.recorded import RecordedSubject, is_recorded
from testbed.campaign.prepare.subject import Subject
from testbed.campaign.prepare.torch_model import TorchSubject
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import UsageError
from testbed.core.folder.manifest import MANIFEST
from testbed.core.folder.runfolder import RunFolder
from testbed.core.process.resources import require_threads
from testbed.data.registry import data_root, find, missing
from testbed.models.runs import open_model_run

log = logging.getLogger(__name__)


def subject_of(spec: CampaignSpec, folder: RunFolder | None = None) -> Subject:
    """Opens the subject of a spec. folder: the campaign's, where it may have been begun before. What is recorded there
    stands in for a model or data that are gone, once the campaign is prepared.

    Raises UsageError for what the spec names and is not there, and for threads and memory that this machine has not."""
    require_threads(spec.engine.sketched_threads, "engine.threads")
    if folder is not None and is_recorded(folder, spec) and (gone := missing_source(spec)):
        log.info("%s: going on with what the run folder holds", gone)
        return RecordedSubject(spec, folder)
    subject = _opened(spec, folder)
    if spec.protection.on_detected != "none" and not subject.raises_alarms:
        raise UsageError(
            f"protection.on_detected = {spec.protection.on_detected!r} says what follows an alarm of the model's own checks,"
            " and this model has none; leave it out, or take a model that `testbed protect` gave a pass that detects"
        )
    return subject


def _opened(spec: CampaignSpec, folder: RunFolder | None) -> Subject:
    if spec.model.onnx is not None:
        return OnnxSubject.of(spec, folder)
    is_protected = spec.model.run is not None and open_model_run(Path(spec.model.run)).protected
    return ProtectedSubject.of(spec) if is_protected else TorchSubject.of(spec)


def finished_subject(spec: CampaignSpec, folder: RunFolder) -> Subject:
    """The subject of a prepared campaign, for commands that only read it: neither model nor data are opened before they
    are used."""
    return RecordedSubject(spec, folder) if is_recorded(folder, spec) else subject_of(spec, folder)


def missing_source(spec: CampaignSpec) -> str | None:
    """Which of the model and the data is not where the spec says, in a few words; None where both are there."""
    data_for_model = None
    if spec.model.run is not None:
        if not (Path(spec.model.run) / MANIFEST).is_file():
            return f"{spec.model.run} holds no model"
        data_for_model = open_model_run(Path(spec.model.run)).data
    if spec.model.onnx is not None and not Path(spec.model.onnx).exists():
        return f"there is no {spec.model.onnx}"
    data = spec.named_data or data_for_model
    if data is None or data.name is None:
        return None
    try:
        entry, path = find(data.name)
    except UsageError as error:  # of a program that is not running: it registered the data set itself
        return str(error)
    absent = missing(entry, data_root(data.root), path)
    return f"data set {data.name!r} is not there ({absent[0]})" if absent else None
