"""A stored fault with all that is needed to look inside: the eager model, the image, and how to show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from testbed.campaign.files import Files
from testbed.campaign.run import Run
from testbed.core.arrays import Float32s
from testbed.core.errors import UsageError
from testbed.core.folder.manifest import CAMPAIGN
from testbed.core.folder.runfolder import RunFolder
from testbed.golden.arrays import read_array
from testbed.golden.source import dataset_of
from testbed.models.runs import open_model_run
from testbed.models.vit import ViT
from testbed.sensitivity.stored_fault import StoredFault, as_deployed, read_stored_fault


@dataclass(frozen=True, eq=False)
class FaultSubject:
    """A fault and what it acts on. model: the campaign's, with LayerNorm as engines compute it; pixels: (C, S, S), the
    model's input; preprocess: how it was made of the image."""

    fault: StoredFault
    model: ViT
    pixels: Float32s
    preprocess: Mapping[str, Any]


def open_eager_campaign(path: Path) -> Run:
    """Open a campaign whose model the testbed has in PyTorch. Raises UsageError for a folder without one."""
    folder = RunFolder.existing(path)
    if folder.manifest.get("kind") != CAMPAIGN:
        raise UsageError(f"{path} is not a campaign's folder, and has no stored faults; name the folder of a campaign")
    run = Run(path)
    if run.spec.model.onnx is not None:
        run.close()
        raise UsageError(
            f"{path} is a campaign on an ONNX file: the inside of a fault is looked at in a model of the testbed;"
            " import its weights with `testbed import` and run the campaign on that"
        )
    return run


def open_fault(path: Path, fault_id: int, image: str | None = None) -> FaultSubject:
    """Open a campaign's stored fault.

    image: for a fault that acts on every image; by default the first named one. Raises UsageError for a folder without a
    campaign of a model of the testbed, and for a fault or an image that it does not have.
    """
    with open_eager_campaign(path) as run:
        fault = read_stored_fault(run, fault_id, image)
        model = as_deployed(open_model_run(path).model)
        if "model" in run.spec.targets:
            inputs = read_array(run.folder / Files("model").inputs)
            pixels = np.array(inputs[run.workplace.images.row(fault.image_id)], np.float32)
        else:
            pixels = _input_of(path, fault.image_id)
        preprocess = run.folder.manifest["stages"]["golden"]["inputs"]["preprocess"]
    return FaultSubject(fault, model, pixels, preprocess)


def _input_of(path: Path, image_id: str) -> Float32s:
    """The image from the data set, where the campaign has inputs of its attention module only."""
    data = dataset_of(open_model_run(path))
    position = data.test.position(image_id)
    pixels: Float32s = data.test.batch(slice(position, position + 1))[0]
    return pixels
