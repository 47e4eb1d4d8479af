"""Goldens, attention data sets and tiers of the original workflow, into and out of a run folder.

For the files themselves see ``testbed.models.originals``; weights have commands of their own (import, export-weights).
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from testbed.analysis.outputs.confidence import TierEdges, Tiers
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import sha256_file
from testbed.data import Split
from testbed.golden.arrays import array_writer
from testbed.golden.recorded import (
    COMMAND,
    STAGE,
    Golden,
    Range,
    RecordingFacts,
    checked_range,
    open_golden,
    working_in,
)
from testbed.golden.recording import golden_facts, golden_files, golden_inputs, module_name, warn_of_images
from testbed.golden.reference import LOGITS, module_files
from testbed.golden.source import dataset_of
from testbed.golden.subset import recorded_subset
from testbed.golden.tiers import golden_tiers, record_tiers, recorded_edges
from testbed.models.originals import (
    TierIndices,
    read_attention_dataset,
    read_golden,
    read_tier_indices,
    write_attention_dataset,
    write_golden,
    write_tier_indices,
)
from testbed.models.subnetwork import target_module
from testbed.models.vit import ViT

log = logging.getLogger(__name__)

_TRIED = 8  # images whose values are computed again before files are believed
_FOREIGN = 0.05  # a golden of another machine differs by far less, one of another model or image order by far more
EDGE_TOLERANCE = 1e-6  # another softmax may round a margin to the other side
_CHUNK_BYTES = 64 * 2**20


def export_originals(path: Path, folder: Path, name: str, *, subset_only: bool = False) -> list[Path]:
    """Writes golden_NAME.pt, NAME_attn_dataset.pt and, after ``testbed tiers``, NAME_cnf_corr_outT.pt (T tiers).

    Positions in them count the recorded images. ``subset_only``: the attention data set of the subset's images only.
    Raises UsageError where the first attention was not recorded, or there is no subset.
    """
    golden = open_golden(path)
    source = recorded_subset(golden) if subset_only else golden
    if source is None:
        raise UsageError(f"{path} has no subset; choose one with `testbed subset {path}`, or leave out --subset")
    attention = module_name(golden.run.model, "attention")
    inputs, outputs = (source.array(golden.file(attention, which)) for which in (0, 1))
    written = [folder / f"golden_{name}.pt", folder / f"{name}_attn_dataset.pt"]
    write_golden(written[0], golden.logits)
    write_attention_dataset(written[1], inputs, outputs)
    if edges := recorded_edges(golden):
        tiers = golden_tiers(golden, edges)
        written.append(folder / f"{name}_cnf_corr_out{len(edges)}.pt")
        correct = tuple(tuple(rows.tolist()) for rows in tiers.positions)
        write_tier_indices(written[2], TierIndices(correct, tuple(tiers.incorrect.tolist())))
    return written


def import_originals(
    path: Path,
    golden_file: Path,
    *,
    attention_file: Path | None = None,
    tiers_file: Path | None = None,
    images: Range | None = None,
) -> Golden:
    """Takes goldens that the original workflow recorded, of the test images [a, b) (default: all), as the folder's.

    A few images are computed again: files of another model, or in another order, are refused. Tiers are checked, not
    copied; the number of lists says which edges (4 or 5 tiers). Raises UsageError for files that do not fit.
    """
    indices = read_tier_indices(tiers_file) if tiers_file else None
    with working_in(path) as run:
        dataset = dataset_of(run)
        test = dataset.test
        first, end = checked_range(images or (0, len(test)), 0, len(test), "the test images")
        recorded = test.subset(slice(first, end))
        attention = module_name(run.model, "attention")
        arrays, names = _arrays(golden_file, attention_file, attention)
        _check_shapes(arrays, len(recorded), run.model, golden_file, attention_file)
        _check_values(arrays, recorded, run.model, golden_file, attention_file)
        taken = [file for file in (golden_file, attention_file) if file]
        imported = {file.name: sha256_file(file) for file in taken}
        inputs = golden_inputs(run, recorded, [first, end], names).model_copy(update={"imported": imported})

        def build() -> RecordingFacts:
            for file, array in arrays.items():
                _write(path / file, array)
            return golden_facts(path, recorded, np.arange(first, end))

        run.folder.stage(STAGE, inputs.to_json(), golden_files(names), build, command=COMMAND)
        golden = Golden(run)
        edges = None if indices is None else TierEdges.preset(len(indices.correct))
        if indices and edges:
            _check_tiers(indices, golden_tiers(golden, edges), golden.ids, str(tiers_file))
    if edges:
        record_tiers(path, edges)
    golden = open_golden(path)
    warn_of_images(golden, dataset.classes)
    return golden


def _arrays(golden_file: Path, attention_file: Path | None, attention: str) -> tuple[dict[str, NDArray], list[str]]:
    """Golden file name -> array, and the modules among them."""
    arrays: dict[str, NDArray] = {LOGITS: read_golden(golden_file)}
    if attention_file is None:
        return arrays, []
    return arrays | dict(zip(module_files(attention), read_attention_dataset(attention_file), strict=True)), [attention]


def _check_shapes(
    arrays: dict[str, NDArray], images: int, model: ViT, golden_file: Path, attention_file: Path | None
) -> None:
    config = model.config
    for file, array in arrays.items():
        wanted = (images, config.classes) if file == LOGITS else (images, config.tokens, config.width)
        if array.shape != wanted:
            raise UsageError(
                f"{golden_file if file == LOGITS else attention_file} holds {array.shape}, and the folder's model and"
                f" images make {wanted}; if it is of a part of the test images, name it with --images A:B"
            )


def _check_values(
    arrays: dict[str, NDArray], recorded: Split, model: ViT, golden_file: Path, attention_file: Path | None
) -> None:
    rows = np.unique(np.linspace(0, len(recorded) - 1, _TRIED).astype(np.int64))
    computed = _computed(model, recorded.batch(rows))
    for (file, array), values in zip(arrays.items(), computed, strict=False):
        scale = max(float(np.abs(values).max()), 1e-6)
        distance = np.abs(array[rows].astype(np.float64) - values).reshape(len(rows), -1).max(axis=1)
        if not (distance <= _FOREIGN * scale).all():
            worst = int(np.argmax(np.nan_to_num(distance, nan=np.inf)))
            raise TestbedError(
                f"{golden_file if file == LOGITS else attention_file} is not of this model and these images in this"
                f" order: image {recorded.ids[rows[worst]]!r} differs by {distance[worst]:.3g};"
                " check the weights, --preprocess and the order of the images"
            )


def _computed(model: ViT, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Logits, and input and output of the first attention."""
    seen: list[NDArray[np.float32]] = []

    def note(_module: Any, inputs: Any, output: Any) -> None:
        seen.extend((inputs[0].numpy(), output.numpy()))

    with ExitStack() as stack:
        stack.callback(target_module(model, "attention").register_forward_hook(note).remove)
        stack.enter_context(torch.inference_mode())
        logits = model(torch.from_numpy(images)).numpy()
    return [logits, *seen]


def _check_tiers(indices: TierIndices, tiers: Tiers, ids: list[str], file: str) -> None:
    """Raises UsageError when an image is in another list than its logits say, unless its margin is on an edge."""
    listed = np.full(len(ids), -2)
    for tier, rows in enumerate((*indices.correct, indices.incorrect)):
        if rows and max(rows) >= len(ids):
            raise UsageError(f"{file} names image {max(rows)}, and there are {len(ids)}")
        listed[list(rows)] = tier if tier < len(indices.correct) else -1
    moved = np.flatnonzero(listed != tiers.tier_of)
    on_edge = np.abs(tiers.margins[moved, None] - np.array(tiers.edges.edges)).min(axis=1, initial=1) <= EDGE_TOLERANCE
    wrong = moved[~on_edge | (listed[moved] < 0) | (tiers.tier_of[moved] < 0)]
    if len(wrong):
        raise UsageError(
            f"{file} is not of this golden: {len(wrong)} of {len(ids)} images belong elsewhere, for example"
            f" {ids[wrong[0]]!r} (position {wrong[0]}); leave the file out and run `testbed tiers`"
        )
    if len(moved):
        log.warning("%d image(s) lie on a tier's edge and changed sides: %s", len(moved), ids[moved[0]])


def _write(path: Path, array: NDArray[np.float32]) -> None:
    step = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    with array_writer(path, len(array)) as writer:
        for start in range(0, len(array), step):
            writer.append(array[start : start + step])
