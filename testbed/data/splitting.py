"""Seeded, stratified cuts of a collection."""

from __future__ import annotations

import numpy as np

from testbed.data.collection import Examples, Images


class PickedImages:
    """Some rows of other images, without copying them."""

    def __init__(self, images: Images, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, row: int) -> np.ndarray:
        return self.images.pixels(int(self.rows[row]))

    def content(self, row: int) -> bytes:
        return self.images.content(int(self.rows[row]))


def pick(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples([examples.ids[row] for row in rows], examples.labels[rows], PickedImages(examples.images, rows))


def stratified(rows: np.ndarray, labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts ``rows`` into (rest, part), part about ``share`` of them; each in ascending order.

    ``labels`` are those of the whole collection. Every class keeps its share, unless a class is too thin to be cut (one
    image, or fewer images to give than classes); then the cut is a plain seeded shuffle.
    """
    from sklearn.model_selection import train_test_split  # takes seconds, and every worker imports this module

    counts = np.unique(labels[rows], return_counts=True)[1]
    part_size = max(1, round(share * len(rows)))
    can_stratify = counts.min() >= 2 and min(part_size, len(rows) - part_size) >= len(counts)
    rest, part = train_test_split(
        rows, test_size=part_size, random_state=seed, stratify=labels[rows] if can_stratify else None
    )
    return np.sort(rest), np.sort(part)
