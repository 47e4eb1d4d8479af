"""The deployed file of a campaign on a user's own ONNX file: there is no model beside it, and it has one precision."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from testbed.bench.operations import operations_of
from testbed.campaign.files import Files
from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.engines.runner import EngineRequest
from testbed.engines.weights import request_from
from testbed.instrument.shapes import fixed_batch, measured_shapes
from testbed.instrument.table import deployment_id
from testbed.models.runs import onnx_file_of

_FILE, _STAGE = Files("model").plain, "export.model"


def is_of_onnx_file(path: Path) -> bool:
    """Whether a folder holds a campaign on a user's own ONNX file, which it has taken. Raises UsageError for a folder without
    a run."""
    folder = RunFolder.existing(path)
    return onnx_file_of(folder) is not None and _STAGE in folder.manifest["stages"]


def deployed_request(path: Path, *, precision: str, threads: int) -> EngineRequest:
    """The request for the engine of the file as the campaign took it.

    Raises UsageError for a precision that the file has not, StaleArtefact where it was changed since.
    """
    folder = RunFolder.existing(path)
    folder.verify(_STAGE)
    own = ((folder.manifest.get("spec") or {}).get("engine") or {}).get("precision", "fp32")
    if precision != own:
        file = onnx_file_of(folder)
        raise UsageError(
            f"{path}: {file} computes in {own}, and there is no {precision} file of it; name --precision {own}"
        )
    content = (folder / _FILE).read_bytes()
    return request_from(folder / _FILE, deployment_id(content), precision=precision, threads=threads)


def check_batches(proto: ModelProto, path: Path, batches: tuple[int, ...]) -> None:
    """Raises UsageError for a batch that the file does not take."""
    fixed = fixed_batch(proto)
    if fixed and any(batch != fixed for batch in batches):
        raise UsageError(f"{path}: the file takes {fixed} image(s) at a time; name --batch {fixed}")


def counted_macs(proto: ModelProto) -> int:
    """Multiply-accumulates of one image, by the shapes that tensors have when the file is run on one.

    Raises EngineError where ONNX Runtime does not take the file.
    """
    names = [name for node in proto.graph.node for name in node.output if name]
    return operations_of(proto, measured_shapes(proto, names, 1)).total_macs
