"""The golden of a run folder, read back: through ``Golden``."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError

from testbed.analysis.outputs.classes import class_counts
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import scratch_folder, sha256_json
from testbed.core.folder.forms import Form, first_wrong, read_form
from testbed.core.folder.runfolder import RunFolder
from testbed.data import Split
from testbed.golden.arrays import read_array
from testbed.golden.reference import (
    LOGITS,
    module_files,
    record_module,
)
from testbed.golden.source import dataset_of
from testbed.models.runs import ModelRun, open_model_run

log = logging.getLogger(__name__)

STAGE = "golden"
COMMAND = "testbed golden"
IMAGES = "golden/images.json"
FIRST_ATTENTION = "block.0.attn"
_ATTENTION = re.compile(r"block\.\d+\.attn")

Range = tuple[int, int]


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


class GoldenImages(Form):
    """The images of a golden. ids, labels: of each recorded image. positions: theirs in the test split, where they are
    not one run of it."""

    ids: list[str]
    labels: list[Annotated[int, Field(ge=0, lt=1 << 31)]]
    positions: list[Annotated[int, Field(ge=0, lt=1 << 40)]] | None = None


class GoldenInputs(Form):
    """What decides a golden. test: hash of the recorded images; images: their range in the test split, or how many were
    chosen and by which seed; torch: the version of PyTorch; imported: hashes of the files that a golden was taken from."""

    model: str
    test: str
    preprocess: dict[str, JsonValue] | None = None
    images: list[int] | dict[str, int] | None = None
    modules: list[str] | None = None
    torch: str | None = None
    imported: dict[str, str] | None = None


class RecordingFacts(Form):
    """What the manifest says of a golden. first: position of the first image in the test split; chosen: whether the images
    are no range of it; device, batch: of a golden that was computed here."""

    accuracy: Annotated[float, Field(ge=0, le=1)]
    images: Annotated[int, Field(ge=1, lt=1 << 40)]
    first: Annotated[int, Field(ge=0, lt=1 << 40)] = 0
    chosen: bool = False
    device: str | None = None
    batch: int | None = None


class _Recorded(Form):
    inputs: GoldenInputs
    facts: RecordingFacts
    outputs: dict[str, str]


@dataclass(frozen=True)
class GoldenContent:
    """What a golden holds. accuracy: in [0, 1]; range: [a, b) in the test split; classes: name -> images; files: name ->
    SHA-256."""

    images: int
    accuracy: float
    range: Range | None
    classes: dict[str, int]
    modules: list[str]
    files: dict[str, str]


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
            self._record = _Recorded.model_validate(record)
        except ValidationError as error:
            problem = f"what {self.run.folder.path} records of its golden is damaged ({first_wrong(error)})"
            raise StaleArtefact(f"{problem}; {self.run.folder.again(STAGE)}") from error
        if self._record.inputs.model != self.run.model_hash:
            raise StaleArtefact(
                f"the golden in {self.run.folder.path} was recorded of another model; {self.run.folder.again(STAGE)}"
            )

    def __len__(self) -> int:
        return self._record.facts.images

    @property
    def accuracy(self) -> float:
        """Accuracy in [0, 1]."""
        return self._record.facts.accuracy

    @property
    def range(self) -> Range | None:
        """[a, b) in the test split; None where images were chosen from all over it."""
        facts = self._record.facts
        return None if facts.chosen else (facts.first, facts.first + facts.images)

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
            file.removeprefix("golden/").removesuffix(ending) for file in self._record.outputs if file.endswith(ending)
        ]

    @property
    def hashes(self) -> dict[str, str]:
        """File -> SHA-256, as recorded."""
        return dict(self._record.outputs)

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

    @property
    def content(self) -> GoldenContent:
        """What it holds, for people and programs."""
        return GoldenContent(len(self), self.accuracy, self.range, self.classes, self.modules, self.hashes)

    @cached_property
    def split(self) -> Split:
        """The recorded images as model input. Raises StaleArtefact where they, or how they are read, have changed."""
        split = dataset_of(self.run).test.subset(self.positions)
        inputs, folder = self._record.inputs, self.run.folder
        preprocess = split.preprocess.describe()
        same_pixels = inputs.preprocess is None or sha256_json(inputs.preprocess) == sha256_json(preprocess)
        if not same_pixels or split.sha256() != inputs.test:
            raise StaleArtefact(f"the images of {folder.path} are no longer those recorded; {folder.again(STAGE)}")
        return split

    @cached_property
    def _images(self) -> tuple[list[str], NDArray[np.int64]]:
        if IMAGES not in self._record.outputs:  # a campaign's golden
            return self.split.ids, self.split.labels
        return self._kept.ids, np.array(self._kept.labels, np.int64)

    @cached_property
    def _kept(self) -> GoldenImages:
        """What the golden's list of images holds."""
        self.run.folder.verify(STAGE, [IMAGES])
        again = self.run.folder.again(STAGE)
        images = read_form(self.run.folder / IMAGES, GoldenImages, "a golden's list of images", again)
        if not len(images.ids) == len(images.labels) == len(self):
            raise StaleArtefact(f"{self.run.folder / IMAGES} has not as many images as the golden; {again}")
        return images

    def file(self, module: str, which: int) -> str:
        """The file of its inputs (0) or outputs (1). Raises UsageError for a module that was not recorded."""
        file = module_files(module)[which]
        if file not in self._record.outputs and not self._can_compute(module):
            raise UsageError(
                f"the golden in {self.run.folder.path} has no module {module!r} (it has"
                f" {', '.join(self.modules) or 'logits only'}); record it with `{COMMAND} {self.run.folder.path}"
                f" --module {module}`"
            )
        return file

    def array(self, file: str) -> NDArray[np.float32]:
        """The array of a golden file, memory-mapped."""
        if file not in self._record.outputs:
            return read_array(self._computed(file) / file)
        self.run.folder.verify(STAGE, [file])
        return read_array(self.run.folder / file)

    def _can_compute(self, module: str) -> bool:
        """A campaign records what it needs; anything else of its model follows from it."""
        if self.run.folder.manifest.get("kind") != "campaign" or _ATTENTION.fullmatch(module) is None:
            return False
        return module == FIRST_ATTENTION or module in dict(self.run.model.named_modules())

    @cached_property
    def _scratch(self) -> Path:
        """A folder for what is computed here, gone with this object."""
        return scratch_folder(self)

    def _computed(self, file: str) -> Path:
        """Write input and output of an attention of a campaign's model for all test images, and return their folder."""
        module = file.removeprefix("golden/").removesuffix(".input.npy").removesuffix(".output.npy")
        before, after = (self._scratch / name for name in module_files(module))
        if not after.exists():
            shown = "first attention" if module == FIRST_ATTENTION else module
            log.info("golden: %s of %d test images", shown, len(self))
            record_module(self.run.model, self.split, np.arange(len(self)), (before, after), module=module)
        return self._scratch


def open_golden(path: Path) -> Golden:
    """Raises UsageError for a folder without a model, StaleArtefact without a golden of this very model."""
    return Golden(open_model_run(path))


def checked_range(wanted: Range, first: int, end: int, what: str) -> Range:
    """[a, b) if it lies in [first, end) and is not empty; UsageError otherwise."""
    a, b = wanted
    if not first <= a < b <= end:
        raise UsageError(f"range {a}:{b} does not fit; {what} are {first}:{end}, and A must be below B")
    return a, b
