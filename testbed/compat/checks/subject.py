"""A model of the matrix with what the checks look at: its files, its sites, and a campaign prepared on it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from testbed.campaign.files import Files
from testbed.campaign.folder.claim import claimed
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.pipeline import Campaign
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.spec.campaign import parse_spec
from testbed.compat.architectures.entry import Architecture
from testbed.compat.seeded import MEAN, STD, write_images
from testbed.core.errors import UsageError
from testbed.core.site import Site, SiteTable
from testbed.instrument.shapes import input_shape
from testbed.instrument.sites.catalogue import Catalogue, catalogue

if TYPE_CHECKING:
    from torch import nn

TARGET = "model"
_BATCH = 4
_ZERO_FAULT_ROWS = 256


class CheckFailed(Exception):
    """What a check looks at is not as it should be; the message says how, in one line."""


@dataclass(frozen=True, eq=False)
class CheckedExport:
    """One exported model. ``model``: the library's own, as it was exported; ``folder``: where its campaign is put;
    ``stack`` closes what is opened."""

    entry: Architecture
    model: nn.Module
    file: Path
    folder: Path
    stack: ExitStack

    @cached_property
    def campaign(self) -> Campaign:
        """A campaign on the file, prepared to its images; its gates are not run. Raises TestbedError."""
        images = write_images(self.entry, self.model, self.folder / "images.npz")
        spec = parse_spec(_spec(self.entry, self.file, images))
        run = claimed(self.folder / "campaign", spec)
        self.stack.enter_context(run.locked())
        run.save()
        preparation = Preparation(spec, run)
        preparation.run()
        made = Campaign(preparation, self.stack)
        made.choose_images()
        return made

    @cached_property
    def plain(self) -> ModelProto:
        """The file as the campaign took it."""
        return onnx.load_from_string((self.campaign.folder / Files(TARGET).plain).read_bytes())

    @cached_property
    def twin(self) -> ModelProto:
        return onnx.load_from_string((self.campaign.folder / Files(TARGET).twin).read_bytes())

    @cached_property
    def catalogue(self) -> Catalogue:
        return catalogue(self.plain.SerializeToString())

    @property
    def table(self) -> SiteTable:
        return self.campaign.workplace.table(TARGET)

    @property
    def activations(self) -> list[Site]:
        return [site for site in self.table if site.where == "activation"]

    @property
    def engine(self) -> CampaignEngine:
        """The engine that activation faults are run on."""
        return self.campaign.workplace.engine(TARGET, "activation")

    @cached_property
    def inputs(self) -> NDArray[np.float32]:
        """(n, C, S, S) what the model is fed for the campaign's images."""
        return self.engine.inputs(np.arange(len(self.engine.images)))


def _stated_size(entry: Architecture, file: Path) -> dict[str, int]:
    """What users have to state where neither their file nor its weights say how large images are, or say another size."""
    try:
        known = input_shape(onnx.load(file, load_external_data=False))[-1]
    except UsageError:
        known = 0
    return {} if known == entry.image else {"image_size": entry.image}


def _spec(entry: Architecture, file: Path, images: Path) -> dict[str, Any]:
    preprocess = {"mean": [MEAN] * entry.channels, "std": [STD] * entry.channels}
    return {
        "name": "compat",
        "seed": 0,
        "model": {"onnx": str(file), **_stated_size(entry, file)},
        "data": {"name": f"npz:{images}", "preprocess": preprocess},
        "tiers": {"images": [2, 2, 2, 2]},
        "faults": [{"target": TARGET, "where": where, "ops": ["flip"]} for where in ("activation", "weight")],
        "engine": {"batch": _BATCH},
        "gates": {"allow_chance_accuracy": True, "zero_fault_rows": _ZERO_FAULT_ROWS},
    }
