"""The golden of a run folder: recorded by ``record_golden``, read back through ``Golden``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from testbed.analysis.choice import TEST_IMAGES, choose
from testbed.analysis.classes import class_counts, one_class_warning
from testbed.analysis.confidence import top1
from testbed.analysis.guessing import guessing_warning
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.files import scratch_folder, sha256_json, write_json
from testbed.core.forms import Form, first_wrong, read_form
from testbed.core.runfolder import RunFolder
from testbed.data import Split
from testbed.data.order_check import warn_of_order
from testbed.golden.arrays import read_array
from testbed.golden.reference import (
    BATCH,
    LOGITS,
    arithmetic,
    compute_device,
    module_files,
    record_module,
    record_reference,
)
from testbed.golden.shared import SharedGolden, array_name
from testbed.golden.source import dataset_of
from testbed.models.runs import ModelRun, open_model_run
from testbed.models.subnetwork import part_named
from testbed.models.vit import ViT

log = logging.getLogger(__name__)

STAGE = "golden"
COMMAND = "testbed golden"
IMAGES = "golden/images.json"
DEFAULT_MODULES = ("attention",)
FIRST_ATTENTION = "block.0.attn"

Range = tuple[int, int]
Advance = Callable[[int], None]


def is_campaign(path: Path) -> bool:
    """Whose folder is only read here: its own command fills it. Raises UsageError for a folder without a run."""
    return RunFolder.existing(path).manifest.get("kind") == "campaign"


@contextmanager
def working_in(path: Path) -> Iterator[ModelRun]:
    """The run of a model's folder, with other processes kept out. Raises UsageError for a campaign's folder."""
    if is_campaign(path):
        raise UsageError(f"{path} is a campaign's folder, which its own command fills; name one of train or import")
    with RunFolder.existing(path).locked():
        yield open_model_run(path)


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
            wanted: Range | dict[str, int] = {"chosen": images, "seed": dataset.seed}
        else:
            first, end = checked_range(images or (0, len(test)), 0, len(test), "the test images")
            positions, wanted = np.arange(first, end), (first, end)
        recorded = test.subset(positions)
        inputs = golden_inputs(run, recorded, wanted, names) | {"torch": torch.__version__}

        shared = SharedGolden(run.model_hash, recorded, arithmetic(target, batch, threads=1))
        arrays = {array_name(file): path / file for file in golden_files(names) if file != IMAGES}

        def build() -> dict[str, Any]:
            if shared.take(arrays) is not None:
                log.info("golden: reused, recorded before of the same model and images")
            else:
                with progress(len(recorded)) if progress else untold() as advance:
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
            return golden_facts(path, recorded, positions) | {"device": str(target), "batch": batch}

        run.folder.stage(STAGE, inputs, golden_files(names), build, command=COMMAND)
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
    run: ModelRun, recorded: Split, images: Range | dict[str, int], modules: Sequence[str]
) -> dict[str, Any]:
    """What decides a golden: JSON for the manifest."""
    return {
        "model": run.model_hash,
        "test": recorded.sha256(),
        "preprocess": recorded.preprocess.describe(),
        "images": images if isinstance(images, dict) else list(images),
        "modules": list(modules),
    }


def golden_files(modules: Sequence[str]) -> list[str]:
    return [LOGITS, IMAGES, *(file for name in modules for file in module_files(name))]


def golden_facts(path: Path, recorded: Split, positions: NDArray[np.int64]) -> dict[str, Any]:
    """Writes which images were recorded; returns what the manifest says of the logits, which are already there.
    positions: (n,) theirs in the test split, ascending."""
    first, n = int(positions[0]), len(positions)
    chosen = {} if positions[-1] - first == n - 1 else {"positions": positions.tolist()}
    write_json(path / IMAGES, {"ids": recorded.ids, "labels": recorded.labels.tolist(), **chosen})
    accuracy = accuracy_of(read_array(path / LOGITS), recorded.labels)
    return {"accuracy": accuracy, "images": n, "first": first, "chosen": bool(chosen)}


class GoldenImages(Form):
    """ids, labels: of each recorded image. positions: theirs in the test split, where they are not one run of it."""

    ids: list[str]
    labels: list[Annotated[int, Field(ge=0, lt=1 << 31)]]
    positions: list[Annotated[int, Field(ge=0, lt=1 << 40)]] | None = None


class _Inputs(Form):
    model: str
    test: str


class _Facts(Form):
    accuracy: Annotated[float, Field(ge=0, le=1)]
    images: Annotated[int, Field(ge=1, lt=1 << 40)]
    first: Annotated[int, Field(ge=0, lt=1 << 40)] = 0
    chosen: bool = False


class _Recorded(Form):
    inputs: _Inputs
    facts: _Facts


@dataclass
class Golden:
    """What was recorded. Row i is test image ``positions[i]``. Every file is checked against its hash before it is read.

    Raises StaleArtefact when nothing was recorded, or it was recorded of another model than the folder's.
    """

    run: ModelRun

    def __post_init__(self) -> None:
        record = self.run.folder.manifest["stages"].get(STAGE)
        if record is None:
            raise StaleArtefact(
                f"{self.run.folder.path} has no golden yet; run `{COMMAND} {self.run.folder.path}` first"
            )
        try:
            _Recorded.model_validate(record)
        except ValidationError as error:
            told = f"what {self.run.folder.path} records of its golden is damaged ({first_wrong(error)})"
            raise StaleArtefact(f"{told}; {self.run.folder.again(STAGE)}") from error
        if record["inputs"]["model"] != self.run.model_hash:
            raise StaleArtefact(
                f"the golden in {self.run.folder.path} was recorded of another model; {self.run.folder.again(STAGE)}"
            )
        self._record = record

    def __len__(self) -> int:
        return int(self._record["facts"]["images"])

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return float(self._record["facts"]["accuracy"])

    @property
    def range(self) -> Range | None:
        """[a, b) in the test split; None where images were chosen from all over it."""
        facts = self._record["facts"]
        first = int(facts.get("first", 0))
        return None if facts.get("chosen", False) else (first, first + len(self))

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """(n,) of the recorded images in the test split, ascending."""
        if self.range is not None:
            return np.arange(*self.range)
        if (positions := self._kept.positions) is None:
            raise StaleArtefact(
                f"{self.run.folder.path / IMAGES} does not say which images were chosen; {self.run.folder.again(STAGE)}"
            )
        return np.array(positions, np.int64)

    @property
    def modules(self) -> list[str]:
        """Names of the recorded modules."""
        ending = ".output.npy"
        return [
            file.removeprefix("golden/").removesuffix(ending)
            for file in self._record["outputs"]
            if file.endswith(ending)
        ]

    @property
    def hashes(self) -> dict[str, str]:
        """File -> SHA-256, as recorded."""
        return dict(self._record["outputs"])

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """(n, K), memory-mapped."""
        return self.array(LOGITS)

    @property
    def ids(self) -> list[str]:
        return self._images[0]

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._images[1]

    @cached_property
    def classes(self) -> dict[str, int]:
        """Class name -> recorded images of it."""
        return class_counts(self.labels, dataset_of(self.run).classes)

    @cached_property
    def split(self) -> Split:
        """The recorded images as model input. Raises StaleArtefact where they, or how they are read, have changed."""
        split = dataset_of(self.run).test.subset(self.positions)
        inputs, folder = self._record["inputs"], self.run.folder
        preprocess = split.preprocess.describe()
        same_pixels = sha256_json(inputs.get("preprocess", preprocess)) == sha256_json(preprocess)
        if not same_pixels or split.sha256() != inputs["test"]:
            raise StaleArtefact(f"the images of {folder.path} are no longer those recorded; {folder.again(STAGE)}")
        return split

    @cached_property
    def _images(self) -> tuple[list[str], NDArray[np.int64]]:
        if IMAGES not in self._record["outputs"]:  # a campaign's golden
            return self.split.ids, self.split.labels
        return self._kept.ids, np.array(self._kept.labels, np.int64)

    @cached_property
    def _kept(self) -> GoldenImages:
        """What the golden's list of images holds."""
        self.run.folder.verify(STAGE, [IMAGES])
        again = self.run.folder.again(STAGE)
        found = read_form(self.run.folder / IMAGES, GoldenImages, "a golden's list of images", again)
        if not len(found.ids) == len(found.labels) == len(self):
            raise StaleArtefact(f"{self.run.folder / IMAGES} has not as many images as the golden; {again}")
        return found

    def file(self, module: str, which: int) -> str:
        """Of its inputs (0) or outputs (1). Raises UsageError for a module that was not recorded."""
        file = module_files(module)[which]
        if file not in self._record["outputs"] and not self._can_compute(module):
            raise UsageError(
                f"the golden in {self.run.folder.path} has no module {module!r} (it has"
                f" {', '.join(self.modules) or 'logits only'}); record it with `{COMMAND} {self.run.folder.path}"
                f" --module {module}`"
            )
        return file

    def array(self, file: str) -> NDArray[np.float32]:
        """Of a golden file, memory-mapped."""
        if file not in self._record["outputs"]:
            return read_array(self._computed / file)
        self.run.folder.verify(STAGE, [file])
        return read_array(self.run.folder / file)

    def _can_compute(self, module: str) -> bool:
        """A campaign records what it needs; anything else of its model follows from it."""
        return self.run.folder.manifest.get("kind") == "campaign" and module == FIRST_ATTENTION

    @cached_property
    def _computed(self) -> Path:
        """Input and output of a campaign's first attention for all test images; gone with this object."""
        folder = scratch_folder(self)
        before, after = (folder / file for file in module_files(FIRST_ATTENTION))
        log.info("golden: first attention of %d test images", len(self))
        record_module(self.run.model, self.split, np.arange(len(self)), (before, after), module=FIRST_ATTENTION)
        return folder


def open_golden(path: Path) -> Golden:
    """Raises UsageError for a folder without a model, StaleArtefact without a golden of this very model."""
    return Golden(open_model_run(path))


def checked_range(wanted: Range, first: int, end: int, what: str) -> Range:
    """[a, b) if it lies in [first, end) and is not empty; UsageError otherwise."""
    a, b = wanted
    if not first <= a < b <= end:
        raise UsageError(f"range {a}:{b} does not fit; {what} are {first}:{end}, and A must be below B")
    return a, b


def accuracy_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of images whose largest logit is their label's; a NaN logit counts as wrong, and is warned of."""
    best = top1(logits)
    if undefined := int((best < 0).sum()):
        log.warning("the logits of %d image(s) hold NaN; `testbed tiers` will name them", undefined)
    return float((best == labels).mean())


@contextmanager
def untold() -> Iterator[Advance]:
    """For work whose progress nobody watches."""
    yield lambda images: None
