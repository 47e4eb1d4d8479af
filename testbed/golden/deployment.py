"""A target of a run folder as a plain ONNX file, exported once, ready for any engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from numpy.typing import NDArray

from testbed.core.errors import UsageError
from testbed.core.runfolder import installed_version
from testbed.engines.runner import EngineRequest, request_from
from testbed.export.onnx import OPSET, export_onnx
from testbed.instrument.table import deployment_id
from testbed.models.runs import ModelRun
from testbed.models.subnetwork import subnetwork

INPUT_NAMES: Mapping[str, str] = {"model": "image"}  # any part of a model is fed the hidden state
COMMAND = "testbed golden verify"


def plain_file(target: str) -> str:
    """``model.onnx``, ``attention.onnx``, ``attention.3.onnx``, ``block.3.onnx``."""
    return f"{target.replace(':', '.')}.onnx"


def plain_engine(run: ModelRun, target: str, example: NDArray, *, threads: int) -> EngineRequest:
    """The request for an engine of ``target``, exported on first use into the (locked) folder.

    example: (b, ...) one batch of the target's inputs. A campaign's folder is only read: UsageError where the campaign
    did not export this target.
    """
    folder, stage, file = run.folder, f"export.{target}", plain_file(target)
    if folder.manifest.get("kind") == "campaign":
        if stage not in folder.manifest["stages"]:
            raise UsageError(f"the campaign in {folder.path} has no target {target!r}")
        folder.verify(stage)
    else:
        versions = {name: installed_version(name) for name in ("torch", "onnx", "onnxscript")}
        inputs = {"model": run.model_hash, "opset": OPSET, "versions": versions}

        def build() -> None:
            module = run.model if target == "model" else subnetwork(run.model, target)
            name = INPUT_NAMES.get(target, "hidden")
            export_onnx(module, torch.from_numpy(example), folder / file, input_name=name)

        folder.stage(stage, inputs, [file], build, command=COMMAND)
    path: Path = folder / file
    return request_from(path, deployment_id(path.read_bytes()), threads=threads)


def ends_of(plain: bytes) -> tuple[str, str]:
    """Names of the graph's input and output."""
    graph = onnx.load_from_string(plain).graph
    return graph.input[0].name, graph.output[0].name
