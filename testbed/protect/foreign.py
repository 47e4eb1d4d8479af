"""Protection of anybody's ONNX file, into another file that campaigns take as they take the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import ModelProto

from testbed.campaign.prepare.onnx_file import OnnxSubject
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import UsageError
from testbed.core.folder.files import write_bytes
from testbed.data import Dataset
from testbed.instrument.quantised import number_format_of
from testbed.instrument.table import site_table
from testbed.protect.checked import JudgedFile, make_checked
from testbed.protect.destination import check_new_file
from testbed.protect.graph import check_unprotected
from testbed.protect.record import PlannedProtection, ProtectedRun, describe_file
from testbed.protect.run import ProtectRequest, plan_passes


@dataclass(frozen=True)
class FileData:
    """The data set that a file's model is for, as a spec's [data] names it."""

    name: str
    root: str | None = None
    preprocess: str | None = None
    classes: str | None = None


def file_data(
    source: Path, name: str | None, root: str | None, preprocess: str | None, classes: str | None
) -> FileData | None:
    """The data set of an ONNX file; None for a run folder, which names its own.

    Raises UsageError where there is neither, for a file of which no data set is named, and for a folder of which one is.
    """
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder; name a model's run folder, or an ONNX file")
    if source.is_file():
        if name is None:
            raise UsageError(f"{source} does not say which data its model is for; name it with --data")
        return FileData(name, root, preprocess, classes)
    if any(each is not None for each in (name, root, preprocess, classes)):
        raise UsageError(f"{source} is no ONNX file: a run folder names its data itself; leave --data out")
    return None


def protect_file(
    source: Path,
    to: Path,
    request: ProtectRequest,
    data: FileData,
    notify: Callable[[str], None] = lambda _: None,
) -> ProtectedRun:
    """Write the protected twin of an ONNX file to ``to``, in the precision that it computes in.

    Raises UsageError for what cannot be protected, GateFailed for a file that does not keep what it promises; nothing is
    written then.
    """
    check_new_file(to)
    plain, dataset, wanted = _read(source, request, data)
    (precision,) = wanted.precisions
    judged = JudgedFile(plain, precision, str(source), dataset, data.root)
    protected, ensured = make_checked(judged, wanted.passes, wanted.measured, notify)
    content = protected.proto.SerializeToString(deterministic=True)
    write_bytes(to, content)
    return ProtectedRun(str(to), str(source), (describe_file(plain, protected, ensured, precision, content),))


def plan_file(source: Path, request: ProtectRequest, data: FileData) -> PlannedProtection:
    """What `protect_file` would add; nothing is written, and no image is run."""
    plain, _, wanted = _read(source, request, data)
    return plan_passes(plain, wanted, str(source))


def _read(source: Path, request: ProtectRequest, data: FileData) -> tuple[ModelProto, Dataset, ProtectRequest]:
    """The file as a campaign takes it, its data set, and the request in the file's own precision."""
    if request.placement is not None:
        raise UsageError(
            f"{source} is no run folder: places are chosen under a budget in those alone; name them (--where)"
        )
    subject = OnnxSubject.of(_spec(source, request, data), None)
    plain = onnx.load_from_string(subject.adopted.whole)
    check_unprotected(plain, str(source))
    computes, precisions = number_format_of(site_table(subject.adopted.plain, "model"))
    if not precisions:
        raise UsageError(
            f"{source} computes in {computes}, which cannot be protected; quantise its activations to 8 bits"
        )
    wanted = replace(request, precisions=precisions[:1])
    wanted.check()
    return plain, subject.dataset, wanted


def _spec(source: Path, request: ProtectRequest, data: FileData) -> CampaignSpec:
    given = {"name": data.name, "root": data.root, "preprocess": data.preprocess, "classes": data.classes}
    values = {
        "name": "protect",
        "seed": 0,
        "model": {"onnx": str(source)},
        "data": {key: value for key, value in given.items() if value is not None},
        "engine": {"backend": request.engines[0]},
        "faults": [{"target": "model", "where": "activation", "sites": ["*"], "per_stratum": 1}],
    }
    return CampaignSpec.model_validate(values)
