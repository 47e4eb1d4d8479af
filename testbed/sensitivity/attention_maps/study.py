"""``testbed attention``: pictures of a run folder's model, or of one stored fault in it, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from testbed.analysis.outputs.choice import TEST_IMAGES
from testbed.core.arrays import Float32s
from testbed.core.folder.figures import FigureFormat
from testbed.data import Split
from testbed.golden.recording import no_progress
from testbed.golden.reference import compute_device
from testbed.golden.source import dataset_of
from testbed.models.runs import open_model_run
from testbed.models.vit import ViT
from testbed.sensitivity.attention_maps import draw
from testbed.sensitivity.attention_maps.distance import HeadDistance
from testbed.sensitivity.attention_maps.gather import (
    BATCH,
    attention_of,
    check_attends,
    gathered_attention,
    measure_distances,
)
from testbed.sensitivity.attention_maps.pictures import (
    folder_of,
    image_pictures,
    write_numbers,
    write_page,
    write_pictures,
)
from testbed.sensitivity.attention_maps.positions import position_embedding, position_similarity
from testbed.sensitivity.attention_maps.records import AttentionStudy, BlockChange, FaultAttention, ImageResult
from testbed.sensitivity.fault_subject import open_fault
from testbed.sensitivity.stored_fault import faulty_states

CountedProgress = Callable[[int], AbstractContextManager[Callable[[int], None]]]

SHOWN = 4
"""Images that are drawn unless some are named."""


@dataclass(frozen=True)
class PictureOptions:
    """Where pictures go, and how. to: None draws nothing; files: also one file of each."""

    to: Path | None = None
    form: FigureFormat = "svg"
    files: bool = False


def study_attention(
    path: Path,
    *,
    image_ids: Sequence[str] = (),
    over: int | None = None,
    options: PictureOptions | None = None,
    device: str = "cpu",
    progress: CountedProgress | None = None,
) -> AttentionStudy:
    """Look at the attention of the model in a run folder.

    image_ids: test images to draw, by default the first `SHOWN`. over: how many test images distances are measured over, a
    random choice with the classes in proportion; all unless stated. Raises UsageError for a folder without model or data,
    an image that is not in the test split, and a model that does not attend.
    """
    options = options or PictureOptions()
    run = open_model_run(path)
    data = dataset_of(run)
    model = run.model.to(compute_device(device)).eval()
    check_attends(model)
    ids = list(image_ids or data.test.ids[:SHOWN])
    drawn = data.test.subset([data.test.position(image_id) for image_id in ids])
    inputs = drawn.batch(slice(None))
    attentions = [attention_of(model, image) for image in inputs]
    part = data.test if over is None else data.test.chosen(min(over, len(data.test)), data.seed, TEST_IMAGES)
    distances = measure_distances(model, _batches(part, progress))
    results = map(ImageResult.of, drawn.ids, drawn.labels.tolist(), attentions)
    study = AttentionStudy(str(path), data.name, tuple(results), tuple(distances))
    if options.to is None:
        return study
    pictures = _model_pictures(model, distances)
    for image_id, image, attention in zip(ids, inputs, attentions, strict=True):
        shown = denormalised(image, data.mean, data.std)
        pictures |= image_pictures(image_id, shown, attention, each_head=options.files)
    facts = {"model": path, "data": data.name, "images": ", ".join(ids), "distances over": f"{len(part):,} test images"}
    return _written(study, f"Attention of {path.resolve().name}", facts, pictures, options)


def study_fault(
    path: Path, fault_id: int, *, image: str | None = None, options: PictureOptions | None = None
) -> AttentionStudy:
    """Look at the attention of a campaign's model while one stored fault acts, beside the golden run.

    image: for a fault that acts on every image. Raises UsageError for a folder without a campaign of a model of the
    testbed, a fault or image that it does not have, and a model that does not attend.
    """
    options = options or PictureOptions()
    subject = open_fault(path, fault_id, image)
    fault, model, pixels, preprocess = subject.fault, subject.model, subject.pixels, subject.preprocess
    check_attends(model)
    golden = attention_of(model, pixels)
    with faulty_states(model, fault) as recorder:
        faulty = gathered_attention(recorder, pixels)
    pairs = zip(golden.blocks, faulty.blocks, strict=True)
    changes = tuple(_change(before.block, before.maps, after.maps) for before, after in pairs)
    record = FaultAttention(fault, int(golden.logits.argmax()), int(faulty.logits.argmax()), changes)
    result = ImageResult.of(fault.image_id, fault.label, golden)
    study = AttentionStudy(str(path), None, (result,), fault=record)
    if options.to is None:
        return study
    shown = denormalised(pixels, preprocess["mean"], preprocess["std"])
    title = f"fault {fault_id}: {fault.op} at {fault.site}, image {fault.image_id}"
    pictures = {f"{folder_of(fault.image_id)}/fault_{fault_id}": draw.faulty_figure(golden, faulty, title)}
    for name, attention in (("golden", golden), ("faulty", faulty)):
        made = image_pictures(fault.image_id, shown, attention, each_head=options.files)
        pictures |= {f"{name}/{file}": figure for file, figure in made.items()}
    facts = {
        "campaign": path,
        "fault": f"{fault_id}: {fault.op} at {fault.site}",
        "image": f"{fault.image_id}, label {fault.label}",
        "top-1 golden, faulty": f"{record.golden_top1}, {record.faulty_top1}",
        "stored outcome": fault.stored_outcome,
    }
    return _written(study, title, facts, pictures, options)


def denormalised(image: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> Float32s:
    """(C, S, S) model input -> (S, S) or (S, S, 3) in [0, 1], for people."""
    channels = len(image)
    scale = np.resize(np.asarray(std, np.float32), channels)[:, None, None]
    shift = np.resize(np.asarray(mean, np.float32), channels)[:, None, None]
    pixels = np.clip(image * scale + shift, 0, 1).transpose(1, 2, 0)
    return pixels if channels == 3 else pixels[..., 0]


def _change(block: int, golden: Float32s, faulty: Float32s) -> BlockChange:
    with np.errstate(invalid="ignore", over="ignore"):
        moved = float(np.abs(faulty.astype(np.float64) - golden).sum(-1).mean()) / 2
    return BlockChange(block, moved if np.isfinite(moved) else None)


def _batches(part: Split, progress: CountedProgress | None) -> Iterator[NDArray[np.float32]]:
    with progress(len(part)) if progress else no_progress() as advance:
        for batch, _ in part.batches(BATCH):
            yield batch
            advance(len(batch))


def _model_pictures(model: ViT, distances: Sequence[HeadDistance]) -> dict[str, Figure]:
    pictures = {
        "attention_distance": draw.distances_figure(distances, "attention distance of every head, mean with 95 %")
    }
    embedding = position_embedding(model)
    if embedding is not None:
        similarity = position_similarity(embedding.to(torch.float64)).cpu().numpy()
        pictures["position_similarity"] = draw.positions_figure(similarity, "cosine similarity of position embeddings")
    return pictures


def _written(
    study: AttentionStudy,
    title: str,
    facts: dict[str, object],
    pictures: dict[str, Figure],
    options: PictureOptions,
) -> AttentionStudy:
    assert options.to is not None
    options.to.mkdir(parents=True, exist_ok=True)
    files = [write_page(options.to, title, facts, pictures, options.form)]
    record = {key: value for key, value in study.to_json().items() if key != "files"}
    files += write_numbers(options.to, record, study.distances)
    if options.files:
        files += write_pictures(options.to, pictures, options.form)
    return replace(study, files=tuple(files))
