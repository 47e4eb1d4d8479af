"""The golden of a run folder, recorded: outputs of the original model, streamed, once for a model and its images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from testbed.analysis.outputs.choice import TEST_IMAGES, choose
from testbed.analysis.outputs.classes import class_counts, one_class_warning
from testbed.analysis.outputs.confidence import top1
from testbed.analysis.outputs.guessing import guessing_warning
from testbed.core.folder.files import write_json
from testbed.data import Split
from testbed.data.classes.order_check import warn_of_order
from testbed.golden.arrays import read_array
from testbed.golden.recorded import (
    COMMAND,
    IMAGES,
    STAGE,
    Golden,
    GoldenInputs,
    Range,
    RecordingFacts,
    checked_range,
    is_campaign,
    open_golden,
    working_in,
)
from testbed.golden.reference import BATCH, LOGITS, arithmetic, compute_device, module_files, record_reference
from testbed.golden.shared import SharedGolden, array_name
from testbed.golden.source import dataset_of
from testbed.models.runs import ModelRun
from testbed.models.subnetwork import part_named
from testbed.models.vit import ViT

log = logging.getLogger(__name__)

DEFAULT_MODULES = ("attention",)

Advance = Callable[[int], None]


def module_name(model: ViT, wanted: str) -> str:
    """The module's name in ``model`` of "attention", "attention:N", "block:N", or of a name like "block.3.mlp"."""
    if wanted.partition(":")[0] not in ("attention", "block") or wanted == "block":
        return wanted
    part = part_named(model, wanted)
    return f"block.{part.block}" + (".attn" if part.kind == "attention" else "")


def record_golden(
    path: Path,
    *,
    images: Range | int | None = None,
    modules: Sequence[str] = DEFAULT_MODULES,
    batch: int = BATCH,
    device: str = "cpu",
    threads: int | None = None,
    progress: Callable[[int], AbstractContextManager[Advance]] | None = None,
) -> Golden:
    """Streams the golden of the test images [a, b), or of so many chosen ones (default: all), into the run folder; no
    second time if it is there, or was recorded for any other folder of the same model and images.

    A number of images is a random choice with the classes in proportion, which follows from the data set's seed.
    ``modules``: see ``module_name``; their inputs and outputs are recorded. ``device``: see ``compute_device``.
    ``threads``: batches at the same time on the CPU, by default as many as cores; their number changes no bit.
    ``progress(total)`` is a context manager that yields a function to be told of images done. A campaign's golden, of
    all images, is returned as it is. Raises UsageError for a range, module, device or data set that does not fit,
    StaleArtefact for an edited model.
    """
    if is_campaign(path) and images is None and tuple(modules) == DEFAULT_MODULES:
        return open_golden(path)
    target = compute_device(device)
    with working_in(path) as run:
        dataset = dataset_of(run)
        test = dataset.test
        names = list(dict.fromkeys(module_name(run.model, name) for name in modules))
        if isinstance(images, int):
            positions = choose(test.ids, test.labels, images, dataset.seed, TEST_IMAGES)
            wanted: list[int] | dict[str, int] = {"chosen": images, "seed": dataset.seed}
        else:
            first, end = checked_range(images or (0, len(test)), 0, len(test), "the test images")
            positions, wanted = np.arange(first, end), [first, end]
        recorded = test.subset(positions)
        inputs = golden_inputs(run, recorded, wanted, names).model_copy(update={"torch": torch.__version__})

        shared = SharedGolden(run.model_hash, recorded, arithmetic(target, batch, threads=1))
        arrays = {array_name(file): path / file for file in golden_files(names) if file != IMAGES}

        def build() -> RecordingFacts:
            if shared.write_cached(arrays):
                log.info("golden: reused, recorded before of the same model and images")
            else:
                with progress(len(recorded)) if progress else no_progress() as advance:
                    record_reference(
                        run.model,
                        recorded,
                        range(len(recorded)),
                        path,
                        modules=names,
                        batch=batch,
                        device=target,
                        workers=(threads or torch.get_num_threads()) if target.type == "cpu" else None,
                        advance=advance,
                    )
                shared.keep(arrays)
            warn_of_order(top1(read_array(path / LOGITS)), recorded.labels, dataset.classes)
            facts = golden_facts(path, recorded, positions)
            return facts.model_copy(update={"device": str(target), "batch": batch})

        run.folder.stage(STAGE, inputs.to_json(), golden_files(names), build, command=COMMAND)
    golden = Golden(run)
    warn_of_images(golden, dataset.classes)
    return golden


def warn_of_images(golden: Golden, classes: Sequence[str]) -> None:
    """Where they are of one class only, or the model gets no more of them right than guessing does."""
    one_class = one_class_warning(class_counts(golden.labels, classes), len(classes))
    guessing = guessing_warning(top1(golden.logits), golden.labels, len(classes))
    for warning in filter(None, (one_class, guessing)):
        log.warning("golden: %s", warning)


def golden_inputs(
    run: ModelRun, recorded: Split, images: list[int] | dict[str, int], modules: Sequence[str]
) -> GoldenInputs:
    return GoldenInputs(
        model=run.model_hash,
        test=recorded.sha256(),
        preprocess=recorded.preprocess.describe(),
        images=images,
        modules=list(modules),
    )


def golden_files(modules: Sequence[str]) -> list[str]:
    return [LOGITS, IMAGES, *(file for name in modules for file in module_files(name))]


def golden_facts(path: Path, recorded: Split, positions: NDArray[np.int64]) -> RecordingFacts:
    """Writes which images were recorded; returns what the manifest says of the logits, which are already there.
    positions: (n,) theirs in the test split, ascending."""
    first, n = int(positions[0]), len(positions)
    chosen = {} if positions[-1] - first == n - 1 else {"positions": positions.tolist()}
    write_json(path / IMAGES, {"ids": recorded.ids, "labels": recorded.labels.tolist(), **chosen})
    accuracy = accuracy_of(read_array(path / LOGITS), recorded.labels)
    return RecordingFacts(accuracy=accuracy, images=n, first=first, chosen=bool(chosen))


def accuracy_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of images whose largest logit is their label's; a NaN logit counts as wrong, and is warned of."""
    best = top1(logits)
    if undefined := int((best < 0).sum()):
        log.warning("the logits of %d image(s) hold NaN; `testbed tiers` will name them", undefined)
    return float((best == labels).mean())


@contextmanager
def no_progress() -> Iterator[Advance]:
    """An `Advance` for work whose progress nobody watches."""
    yield lambda images: None
