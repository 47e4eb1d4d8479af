"""The campaign's named images: which, in which order, and what each target is fed for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from testbed.analysis.outputs.confidence import Tiers
from testbed.campaign.results.arrow import coded
from testbed.campaign.results.fault_images import rows_each
from testbed.core.arrays import Int64s
from testbed.core.errors import UsageError
from testbed.core.folder.forms import Form, read_form


@dataclass(frozen=True)
class NamedImages:
    """The images of a campaign. ids, labels, tiers (n,): in campaign order. ``positions``: their rows in the test split
    and the goldens."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    tiers: NDArray[np.int16]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.ids)}

    def row(self, image_id: str) -> int:
        """Raises UsageError for an image that is not part of the campaign."""
        if image_id not in self._rows:
            raise UsageError(
                f"image {image_id!r} is not one of the campaign's {len(self)}; the first is {self.ids[0]!r}"
            )
        return self._rows[image_id]

    def rows(self, image_ids: Sequence[str]) -> NDArray[np.int64]:
        """(n,) Raises UsageError as `row`."""
        return np.array([self.row(image_id) for image_id in image_ids], np.int64)

    def of_faults(self, plan: pa.Table) -> tuple[Int64s, Int64s]:
        """(n,) which planned fault each row is of, and which image: the rows of these faults, in their order.

        A fault of one inference has the image that it was drawn for. A persistent one has those that were drawn for it, or
        all, in their order. Raises UsageError for an image that is not part of the campaign.
        """
        each = rows_each(plan, len(self))
        fault = np.repeat(np.arange(len(each)), each)
        single, drawn = (
            np.asarray(plan.column(name).is_valid().to_numpy(), bool) for name in ("image_id", "image_ids")
        )
        image = np.empty(len(fault), np.int64)
        every = ~(single | drawn)
        image[every[fault]] = np.tile(np.arange(len(self)), int(every.sum()))
        if single.any():
            names, codes = coded(plan.column("image_id"))
            image[single[fault]] = self.rows(names)[codes[single]]
        if drawn.any():
            some = [np.sort(self.rows(ids)) for ids in plan.column("image_ids").drop_null().to_pylist()]
            image[drawn[fault]] = np.concatenate(some)
        return fault, image

    def per_tier(self, tiers: int) -> list[list[str]]:
        return [[self.ids[row] for row in np.flatnonzero(self.tiers == tier)] for tier in range(tiers)]


Inputs = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Engine inputs (b, ...) of rows of the named images."""


class _TierImages(Form):
    low: float
    high: float
    images: list[str]


class _Named(Form):
    id: str
    position: Annotated[int, Field(ge=0, lt=1 << 40)]
    label: Annotated[int, Field(ge=0, lt=1 << 31)]
    tier: Annotated[int, Field(ge=0, lt=1 << 15)]


class TiersFile(Form):
    """The content of tiers.json: every tier's images, how many the model gets right and which it does not, and the images
    that faults are run on."""

    tiers: list[_TierImages]
    correct: int = 0
    incorrect: int = 0
    incorrect_images: list[str] = Field(default_factory=list)
    named: Annotated[list[_Named], Field(min_length=1)]

    @model_validator(mode="after")
    def _named_are_of_the_tiers(self) -> Self:
        if any(image.tier >= len(self.tiers) for image in self.named):
            raise ValueError(f"an image is of none of its {len(self.tiers)} tiers")
        if len({image.id for image in self.named}) < len(self.named):
            raise ValueError("an image is named twice")
        return self

    @classmethod
    def of(cls, tiers: Tiers, ids: Sequence[str], chosen: NDArray[np.int64], labels: NDArray[np.int64]) -> Self:
        """Assemble the content. chosen: positions of the named images."""
        lows = (0.0, *tiers.edges.edges)
        return cls(
            tiers=[
                _TierImages(low=lows[i], high=lows[i + 1], images=[ids[p] for p in positions])
                for i, positions in enumerate(tiers.positions)
            ],
            correct=len(tiers.correct),
            incorrect=len(tiers.incorrect),
            incorrect_images=[ids[p] for p in tiers.incorrect],
            named=[
                _Named(id=ids[p], position=int(p), label=int(labels[p]), tier=int(tiers.tier_of[p])) for p in chosen
            ],
        )


def read_tiers(path: Path) -> TiersFile:
    """A campaign's tiers and its named images. Raises StaleArtefact for a damaged file."""
    return read_form(path, TiersFile, "a tiers file", "rerun with `testbed campaign run SPEC --redo tiers`")


def named_images(path: Path) -> NamedImages:
    """The campaign's images, from its tiers file. Raises StaleArtefact for a damaged one."""
    named = read_tiers(path).named
    return NamedImages(
        tuple(image.id for image in named),
        np.array([image.label for image in named], np.int64),
        np.array([image.tier for image in named], np.int16),
        np.array([image.position for image in named], np.int64),
    )
