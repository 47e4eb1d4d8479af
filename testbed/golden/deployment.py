"""A target of a run folder as a plain ONNX file, exported once, ready for any engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from pydantic import JsonValue

from testbed.core.errors import UsageError
from testbed.core.folder.manifest import CAMPAIGN
from testbed.core.folder.provenance import installed_version
from testbed.core.protected import protected_file
from testbed.engines.runner import EngineRequest
from testbed.engines.weights import request_from
from testbed.export.calibration import calibration_split
from testbed.export.onnx import OPSET
from testbed.export.precision import Calibration
from testbed.export.target import export_target, exported_files, is_apart
from testbed.golden.source import dataset_of
from testbed.instrument.table import deployment_id
from testbed.models.runs import MODEL, ModelRun

COMMAND = "testbed export"


def plain_file(target: str, precision: str = "fp32") -> str:
    """``model.onnx``, ``attention.3.onnx``, ``block.3.fp16.onnx``."""
    return f"{target.replace(':', '.')}{'' if precision == 'fp32' else f'.{precision}'}.onnx"


def plain_engine(
    run: ModelRun, target: str, *, precision: str = "fp32", calibration: Calibration | None = None, threads: int = 1
) -> EngineRequest:
    """The request for an engine of ``target``, exported on first use into the (locked) folder.

    int8 is calibrated on a choice of training images (``calibration_split``). A campaign's folder is only read:
    UsageError where the campaign did not export this target in this precision. Of a protected model it is the protected
    file, which exists in the precisions that it was protected in: UsageError for others, and for parts of the model.
    """
    path = _exported(run, target, precision, calibration)
    return request_from(path, deployment_id(path.read_bytes()), precision=precision, threads=threads)


def deployed_file(run: ModelRun, target: str, precision: str) -> Path:
    """Where `plain_engine` takes the target from."""
    protected = run.protected and run.folder.kind != CAMPAIGN
    return run.folder / (protected_file(precision) if protected else plain_file(target, precision))


def _exported(run: ModelRun, target: str, precision: str, calibration: Calibration | None) -> Path:
    folder, file = run.folder, plain_file(target, precision)
    stage = f"export.{target}" if precision == "fp32" else f"export.{target}.{precision}"
    if run.protected and folder.kind != CAMPAIGN:
        return run.protected_path(target, precision)
    if folder.kind == CAMPAIGN:
        if target == part_in_campaign(run, "attention"):
            stage, file = stage.replace(target, "attention"), plain_file("attention", precision)
        if file not in folder.manifest["stages"].get(stage, {}).get("outputs", {}):
            raise UsageError(f"the campaign in {folder.path} has no target {target!r} in {precision}")
        folder.verify(stage)
    else:
        versions: dict[str, JsonValue] = {name: installed_version(name) for name in ("torch", "onnx", "onnxscript")}
        inputs: dict[str, JsonValue] = {"model": run.model_hash, "opset": OPSET, "versions": versions}
        images = None
        if precision == "int8":
            wanted = calibration or Calibration(256)
            chosen = calibration_split(dataset_of(run), wanted, run.data.root if run.data else None)
            calibration = replace(wanted, images=len(chosen))
            images = chosen.batch(slice(None))
            inputs["calibration"] = {**calibration.to_json(), "content": chosen.sha256()}

        def build() -> None:
            export_target(run.model, target, folder / file, precision=precision, images=images, calibration=calibration)

        apart = is_apart((folder / MODEL).stat().st_size, target, precision)
        folder.stage(stage, inputs, exported_files(file, apart), build, command=COMMAND)
    return folder / file


def part_in_campaign(run: ModelRun, target: str) -> str:
    """The target with its block: where a campaign's attention module is that of another block than the first, that one."""
    block = run.folder.manifest.get("spec", {}).get("attention", {}).get("block")
    named = run.folder.kind == CAMPAIGN and target == "attention" and block is not None
    return f"{target}:{block}" if named else target


def ends_of(plain: bytes) -> tuple[str, str]:
    """Names of the graph's input and output."""
    graph = onnx.load_from_string(plain).graph
    return graph.input[0].name, graph.output[0].name
