"""Input and output of an attention module, where it is a target: of the images that are asked for, and no others.

Older run folders recorded them of all test images, beside the logits; there they are only read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from testbed.campaign.files import Files
from testbed.campaign.folder.images import NamedImages
from testbed.campaign.results.progress import Watch, unwatched
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.folder.runfolder import RunFolder
from testbed.data import Split
from testbed.golden.arrays import array_writer, read_array
from testbed.golden.recorded import FIRST_ATTENTION
from testbed.golden.reference import BATCH, LOGITS, arithmetic, module_files, record_module
from testbed.golden.shared import SharedGolden, array_name
from testbed.models.runs import MODEL
from testbed.models.weights import load_model

log = logging.getLogger(__name__)

TARGET = "attention"
_ROWS = 64  # copied at once


def shared_golden(spec: CampaignSpec, model_hash: str, test: Split) -> SharedGolden:
    """The shared golden of a model that PyTorch runs."""
    return SharedGolden(model_hash, test, arithmetic(torch.device("cpu"), BATCH, spec.engine.sketched_threads))


@dataclass(frozen=True)
class Reference:
    """Where a target's reference golden lies. of_all: row i is test image i; else it is named image i."""

    stage: str
    file: str
    of_all: bool

    @classmethod
    def of(cls, folder: RunFolder, target: str) -> Reference:
        if target != TARGET:
            return cls("golden", LOGITS, True)
        stage, file = f"inputs.{target}", Files(target).golden
        if file in folder.manifest["stages"].get(stage, {}).get("outputs", {}):
            return cls(stage, file, False)
        return cls("golden", module_files(FIRST_ATTENTION)[1], True)

    def rows(self, folder: RunFolder, images: NamedImages) -> NDArray[np.float32]:
        """(n, ...) of the named images."""
        outputs = read_array(folder / self.file)
        return outputs[images.positions] if self.of_all else outputs


def write_attention(
    spec: CampaignSpec,
    folder: RunFolder,
    test: Split,
    positions: NDArray[np.int64],
    files: tuple[Path, Path],
    watch: Watch = unwatched,
) -> None:
    """Writes the module's input and output (n, N, D) for the test images at ``positions`` (n,), in that order.

    Whichever way they are had, they have the same bits.
    """
    block = spec.attention.block
    module = FIRST_ATTENTION if block is None else f"block.{block}.attn"
    whole = module_files(module)
    if whole[1] in folder.manifest["stages"]["golden"]["outputs"]:
        folder.verify("golden", whole)
        for file, path in zip(whole, files, strict=True):
            _copy_rows(read_array(folder / file), positions, path)
        return
    torch.set_num_threads(spec.engine.sketched_threads)
    shared = shared_golden(spec, folder.output_hash("train", MODEL), test)
    wanted = {array_name(file): path for file, path in zip(whole, files, strict=True)}
    if shared.write_cached(wanted, positions.tolist()):
        return
    log.info("golden: %s of %d images", _module_words(block), len(positions))
    with watch("golden", len(positions), f"images, {_module_words(block)}") as advance:
        record_module(load_model(folder / MODEL), test, positions, files, module=module, batch=BATCH, advance=advance)
    shared.keep(wanted, positions.tolist())


def _module_words(block: int | None) -> str:
    return "first attention" if block is None else f"attention of block {block}"


def _copy_rows(array: NDArray[np.float32], rows: NDArray[np.int64], path: Path) -> None:
    with array_writer(path, len(rows)) as writer:
        for start in range(0, len(rows), _ROWS):
            writer.append(array[rows[start : start + _ROWS]])
