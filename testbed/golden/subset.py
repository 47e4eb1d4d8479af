"""A choice of recorded images, and their part of the golden as files of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from testbed.analysis.outputs.choice import choose_per_tier
from testbed.analysis.outputs.classes import class_counts, one_class_warning
from testbed.analysis.outputs.confidence import first_of_each
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import write_json
from testbed.core.folder.forms import Form, read_form
from testbed.golden.arrays import array_writer, read_array
from testbed.golden.recorded import Golden, Range, checked_range, working_in
from testbed.golden.reference import LOGITS, module_files
from testbed.golden.source import dataset_of
from testbed.golden.tiers import COMMAND as TIERS_COMMAND
from testbed.golden.tiers import golden_tiers, recorded_edges

log = logging.getLogger(__name__)

STAGE = "subset"
COMMAND = "testbed subset"
SUBSET = "subset.json"
CHUNK_BYTES = 64 * 2**20


class SubsetChoice(Form):
    """How the images of a tier were chosen: the first ones, or at random by a seed with the classes in proportion."""

    by: Literal["data set order", "class"]
    seed: int | None = None


class ChosenBy(Form):
    """What was asked for: a range of the test images, or numbers of images of the tiers with these edges."""

    range: list[int] | None = None
    per_tier: list[int] | None = None
    edges: list[float] | None = None
    choice: SubsetChoice | None = None


@dataclass(frozen=True)
class SubsetRecord:
    """The content of subset.json. positions: in the test split; classes: images of each class; files: the chosen rows of
    the golden's arrays."""

    images: int
    positions: list[int]
    ids: list[str]
    labels: list[int]
    classes: dict[str, int]
    chosen_by: ChosenBy
    files: list[str]

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "images": self.images,
            "positions": [*self.positions],
            "ids": [*self.ids],
            "labels": [*self.labels],
            "classes": {**self.classes},
            **self.chosen_by.to_json(),
            "files": [*self.files],
        }


def subset_file(golden_file: str) -> str:
    """``subset/block.0.attn.input.npy`` of ``golden/block.0.attn.input.npy``."""
    return f"subset/{Path(golden_file).name}"


def record_subset(
    path: Path,
    *,
    per_tier: Sequence[int] | None = None,
    positions: Range | None = None,
    stratified: bool = False,
    seed: int = 0,
) -> SubsetRecord:
    """Writes subset.json and the chosen images' rows of every golden array; returns the content of subset.json.

    Either ``per_tier[i]`` images of each tier i, tier after tier: the first ones in data set order, as published, or,
    ``stratified``, a random choice by the seed with the tier's classes in proportion; or the test images [a, b). Raises
    UsageError for a tier that has too few, or a range that was not recorded.
    """
    if (per_tier is None) == (positions is None):
        raise UsageError("choose images with --per-tier or with --range, one of the two")
    if stratified and per_tier is None:
        raise UsageError("--stratified is a way to choose --per-tier; a range is what it is")
    with working_in(path) as run:
        golden = Golden(run)
        if positions is not None:
            rows, chosen_by = _in_range(golden, positions)
        else:
            rows, chosen_by = _of_tiers(golden, per_tier or (), seed if stratified else None)
        classes = dataset_of(run).classes
        counts = class_counts(golden.labels[rows], classes)
        if warning := one_class_warning(counts, len(classes)):
            log.warning("subset: %s", warning)
        arrays = [LOGITS, *(file for name in golden.modules for file in module_files(name))]
        inputs = {"golden": golden.hashes, **chosen_by.to_json()}
        files = [subset_file(file) for file in arrays]
        record = SubsetRecord(
            len(rows),
            golden.positions[rows].tolist(),
            [golden.ids[row] for row in rows],
            [int(golden.labels[row]) for row in rows],
            counts,
            chosen_by,
            files,
        )

        def build() -> None:
            for file in arrays:
                _copy_rows(golden.array(file), rows, path / subset_file(file))
            write_json(path / SUBSET, record.to_json())

        run.folder.stage(STAGE, inputs, [SUBSET, *files], build, command=COMMAND)
    return record


def _in_range(golden: Golden, positions: Range) -> tuple[NDArray[np.int64], ChosenBy]:
    """Rows of the golden, and how they were chosen."""
    if golden.range is None:
        raise UsageError("the recorded images are no range of the test images but a choice; choose with --per-tier")
    a, b = checked_range(positions, *golden.range, "the recorded images")
    return np.arange(a, b) - golden.range[0], ChosenBy(range=[a, b])


def _of_tiers(golden: Golden, per_tier: Sequence[int], seed: int | None) -> tuple[NDArray[np.int64], ChosenBy]:
    """Rows of the golden, and how they were chosen. seed: of a stratified choice; None for the first of each tier."""
    path = golden.run.folder.path
    edges = recorded_edges(golden)
    if edges is None:
        raise StaleArtefact(f"{path} has no tiers yet; run `{TIERS_COMMAND} {path}` first")
    tiers = golden_tiers(golden, edges)
    choice = SubsetChoice(by="data set order") if seed is None else SubsetChoice(by="class", seed=seed)
    if seed is None:
        rows = first_of_each(tiers, per_tier)
    else:
        rows = choose_per_tier(tiers, per_tier, golden.ids, golden.labels, seed)
    if not len(rows):
        raise UsageError("a subset needs at least one image; ask for more per tier")
    return rows, ChosenBy(per_tier=list(per_tier), edges=list(edges.edges), choice=choice)


def _copy_rows(source: NDArray, rows: NDArray[np.int64], path: Path) -> None:
    step = max(1, CHUNK_BYTES // max(1, source[:1].nbytes))
    with array_writer(path, len(rows), source.dtype) as writer:
        for start in range(0, len(rows), step):
            writer.append(source[rows[start : start + step]])


class _Chosen(Form):
    positions: list[Annotated[int, Field(ge=0, lt=1 << 40)]]


@dataclass(frozen=True)
class Subset:
    """The recorded choice. Raises StaleArtefact where it was made from another golden than the folder's."""

    golden: Golden

    def __post_init__(self) -> None:
        folder = self.golden.run.folder
        record = folder.manifest["stages"][STAGE]
        if record["inputs"].get("golden") != self.golden.hashes:
            raise StaleArtefact(f"the subset in {folder.path} was made from another golden; {folder.again(STAGE)}")

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the golden."""
        folder = self.golden.run.folder
        folder.verify(STAGE, [SUBSET])
        chosen = read_form(folder / SUBSET, _Chosen, "a subset's list of images", folder.again(STAGE))
        positions = np.array(chosen.positions, np.int64)
        if not np.isin(positions, self.golden.positions).all():
            raise StaleArtefact(f"{folder / SUBSET} names images that the golden has not; {folder.again(STAGE)}")
        return np.searchsorted(self.golden.positions, positions)

    def array(self, golden_file: str) -> NDArray[np.float32]:
        """The subset's rows of a golden file, memory-mapped."""
        folder, file = self.golden.run.folder, subset_file(golden_file)
        folder.verify(STAGE, [file])
        return read_array(folder / file)


def recorded_subset(golden: Golden) -> Subset | None:
    """None where no subset was chosen."""
    return Subset(golden) if STAGE in golden.run.folder.manifest["stages"] else None
