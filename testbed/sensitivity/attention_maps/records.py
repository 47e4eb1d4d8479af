"""What a study of attention found, as records: of images, of blocks that a fault changed, and of all together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from testbed.sensitivity.attention_maps.distance import HeadDistance
from testbed.sensitivity.attention_maps.gather import ImageAttention
from testbed.sensitivity.stored_fault import StoredFault, values_of


@dataclass(frozen=True)
class ImageResult:
    """One drawn image. top1: the class that the model says; focus: where the rollout is largest, (row, column) of the
    patch grid, and share: what part of the relevance of all patches is there."""

    image_id: str
    label: int
    top1: int
    focus: tuple[int, int]
    share: float

    @classmethod
    def of(cls, image_id: str, label: int, attention: ImageAttention) -> ImageResult:
        relevance = attention.rollout
        row, column = np.unravel_index(int(relevance.argmax()), relevance.shape)
        total = float(relevance.sum())
        share = float(relevance.max()) / total if total > 0 else 0.0
        return cls(image_id, label, int(attention.logits.argmax()), (int(row), int(column)), share)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "image_id": self.image_id,
            "label": self.label,
            "top1": self.top1,
            "focus": list(self.focus),
            "share": self.share,
        }


@dataclass(frozen=True)
class BlockChange:
    """What a fault did to one block's attention. moved: mean over the queries of half the L1 distance between the golden
    and the faulty row, over all heads: the share of attention that went elsewhere; None where it is not finite."""

    block: int
    moved: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"block": self.block, "moved": self.moved}


@dataclass(frozen=True)
class FaultAttention:
    """A stored fault and what it did to the attention. golden_top1, faulty_top1: of the eager model; agrees: whether the
    latter is the campaign's own, None where the campaign stored none."""

    fault: StoredFault
    golden_top1: int
    faulty_top1: int
    changes: tuple[BlockChange, ...]

    @property
    def agrees(self) -> bool | None:
        """Whether the eager model's faulty prediction is the stored one."""
        stored = self.fault.stored_top1
        return None if stored is None else stored == self.faulty_top1

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        fault = self.fault
        values = values_of(fault.words[0])
        return {
            "fault_id": fault.fault_id,
            "target": fault.target,
            "where": fault.where,
            "site": fault.site,
            "index": fault.words[0].index.tolist(),
            "op": fault.op,
            "pattern": fault.pattern,
            "bit": fault.bit,
            "golden_values": None if values is None else [_finite(value) for value in values[0]],
            "faulty_values": None if values is None else [_finite(value) for value in values[1]],
            "stored_outcome": fault.stored_outcome,
            "stored_top1": fault.stored_top1,
            "golden_top1": self.golden_top1,
            "faulty_top1": self.faulty_top1,
            "agrees": self.agrees,
            "blocks": [change.to_json() for change in self.changes],
        }


@dataclass(frozen=True)
class AttentionStudy:
    """What was measured, and the files that were written. distances: over ``measured`` test images; empty for a fault."""

    run: str
    data: str | None
    images: tuple[ImageResult, ...]
    distances: tuple[HeadDistance, ...] = ()
    fault: FaultAttention | None = None
    files: tuple[Path, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: what --json prints and attention.json holds (that one without ``files``)."""
        return {
            "run": self.run,
            "data": self.data,
            "images": [image.to_json() for image in self.images],
            "distances": [distance.to_json() for distance in self.distances],
            "fault": None if self.fault is None else self.fault.to_json(),
            "files": [str(path) for path in self.files],
        }


def _finite(value: np.float32) -> float | str:
    """A number for JSON; NaN and infinities as text."""
    return float(value) if np.isfinite(value) else str(float(value))
