"""An attention module as a target: cut out of a user's own file, and what it is fed and gives.

Input and output are of the images that are asked for, and no others. Older run folders recorded them of all test images,
beside the logits; there they are only read.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from testbed.campaign.facts import CutFacts, GoldenFacts
from testbed.campaign.files import Files
from testbed.campaign.folder.images import NamedImages
from testbed.campaign.results.progress import Watch, unwatched
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.arrays import Float32s, Int64s
from testbed.core.errors import UsageError
from testbed.core.folder.files import write_bytes
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.site import SiteTable
from testbed.data import Split
from testbed.engines.batches import pad_values
from testbed.engines.runner import EngineRequest, open_engine
from testbed.engines.weights import weights_beside
from testbed.golden.arrays import array_writer, read_array
from testbed.golden.recorded import FIRST_ATTENTION
from testbed.golden.reference import BATCH, LOGITS, arithmetic, module_files, record_module
from testbed.golden.shared import SharedGolden, array_name
from testbed.instrument.cut.module import AttentionModule, cut_attention, with_outputs
from testbed.instrument.shapes import model_input
from testbed.instrument.sites.catalogue import Catalogue
from testbed.instrument.table import deployment_id
from testbed.models.runs import MODEL
from testbed.models.weights import load_model

log = logging.getLogger(__name__)

TARGET = "attention"
_ROWS = 64  # copied at once
_LISTED = 4  # tensors in a line


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
    """Writes the module's input and output (n, ...) for the test images at ``positions`` (n,), in that order.

    Whichever way they are had, they have the same bits.
    """
    if spec.model.onnx is not None:
        write_cut_values(spec, folder, test, positions, files, watch)
        return
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


# ---- of a user's own ONNX file


def module_of(spec: CampaignSpec, whole: Catalogue) -> AttentionModule:
    """The module that the spec names. Raises UsageError where it cannot be cut out, or the file is protected."""
    return cut_attention(whole, str(spec.model.onnx), spec.attention.block)


def module_table(spec: CampaignSpec, module: AttentionModule, plain: bytes | None, wanted: Sequence[str]) -> SiteTable:
    """The module's sites, under the names that they have in the whole file. plain: its file, where the campaign's folder
    has it; wanted: patterns of sites. Raises UsageError where none is recognised and no tensor is named."""
    if not module.catalogue.recognised and not any(_names_some(module.catalogue, pattern) for pattern in wanted):
        names = ", ".join(site.name for site in module.catalogue.others[:_LISTED])
        raise UsageError(
            f"{spec.model.onnx}: the attention of block {module.block} is of a kind whose tensors have no names of sites; name"
            f" some by their own, such as {names}: faults[N].sites = [...]"
        )
    chosen = module.catalogue.with_tensors(wanted)
    return SiteTable(TARGET, deployment_id(plain or module.plain), spec.engine.ports, chosen)


def _names_some(module: Catalogue, pattern: str) -> bool:
    return pattern != "*" and any(fnmatch.fnmatchcase(site.name, pattern) for site in module.others)


def write_module(folder: RunFolder, module: AttentionModule, target: str, whole: str) -> None:
    """The stage that writes the module's plain file. whole: hash of the whole one."""
    stage, file = f"export.{target}", Files(target).plain

    def build() -> CutFacts:
        log.info("export: attention of block %d, %s to %s -> %s", module.block, module.input, module.output, file)
        write_bytes(folder / file, module.plain)
        return CutFacts(block=module.block, input=module.input, output=module.output)

    folder.stage(stage, {"plain": whole, "block": module.block}, [file], build)


def write_cut_values(
    spec: CampaignSpec,
    folder: RunFolder,
    test: Split,
    positions: Int64s,
    files: tuple[Path, Path],
    watch: Watch,
) -> None:
    """Writes the module's input and output (n, ...), float32, for the test images at ``positions`` (n,), in that order.

    The file is run whole, in the golden's batches, with both tensors beside its logits. Raises EngineError.
    """
    cut = facts_of(folder, f"export.{TARGET}", CutFacts)
    proto = onnx.load(folder / Files("model").plain, load_external_data=False)
    plain = with_outputs(proto, (cut.input, cut.output)).SerializeToString(deterministic=True)
    batch = 1 if facts_of(folder, "golden", GoldenFacts).rows_influence else spec.engine.sketched_batch
    request = EngineRequest.of_bytes(
        plain,
        deployment_id(plain),
        precision=spec.engine.precision,
        threads=spec.engine.sketched_threads,
        max_batch=batch,
        weights=weights_beside(plain, folder.path),
    )
    name, logits, golden = model_input(proto).name, proto.graph.output[0].name, read_array(folder / LOGITS)
    deviation = 0.0
    log.info("golden: attention of block %d of %d images, by the plain engine itself", cut.block, len(positions))
    with (
        open_engine(spec.engine.backend, request) as runner,
        array_writer(files[0], len(positions)) as inputs,
        array_writer(files[1], len(positions)) as outputs,
        watch("golden", len(positions), f"images, attention of block {cut.block}") as advance,
    ):
        for rows, images in golden_batches(test, positions, batch):
            values = runner.run({name: images})
            inputs.append(values[cut.input][: len(rows)].astype(np.float32))
            outputs.append(values[cut.output][: len(rows)].astype(np.float32))
            deviation = max(deviation, _largest_deviation(values[logits][: len(rows)].astype(np.float32), golden[rows]))
            advance(len(rows))
    if deviation:
        log.warning(
            "golden: with the module's tensors as outputs the engine's logits differ by %.3g from its own: it rounds elsewhere"
            " then",
            deviation,
        )


def golden_batches(test: Split, positions: Int64s, batch: int) -> Iterator[tuple[Int64s, Float32s]]:
    """The positions of each batch, and its images, blank ones behind them until it is full."""
    for start in range(0, len(positions), batch):
        rows = positions[start : start + batch]
        images = test.batch(rows)
        yield rows, pad_values(images, batch, filler=np.zeros(images.shape[1:], np.float32))


def _largest_deviation(a: Float32s, b: Float32s) -> float:
    """Largest deviation; infinity where only one of two numbers is finite."""
    with np.errstate(invalid="ignore"):
        deviation = np.abs(a.astype(np.float64) - b.astype(np.float64))
    deviation[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    return float(np.nan_to_num(deviation, nan=np.inf).max(initial=0.0))
