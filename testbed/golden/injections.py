"""The fixed list of wrong values that a comparison must find: a test of the comparator, not of a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import UsageError

# (image, token, column) of the expected outputs -> value
INJECTIONS: dict[tuple[int, int, int], float] = {
    (150, 34, 13): 12.0,
    (150, 34, 54): 12.0,
    (200, 5, 5): np.inf,
    (201, 2, 23): np.nan,
    (300, 34, 13): 12.0,
}
INJECTED_IMAGES = sorted({image for image, _, _ in INJECTIONS})


def check_images(images: int) -> None:
    if images <= INJECTED_IMAGES[-1]:
        raise UsageError(
            f"--inject changes images up to position {INJECTED_IMAGES[-1]}, and there are {images};"
            " record more, or choose a larger subset"
        )


def injected(golden: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    """A copy of the rows [start, start + b) of the expected outputs, with the list applied.

    golden: (b, N, D), or (b, K) logits, which have no token. Where an output is smaller than the list assumes, token
    and column are taken modulo its size.
    """
    changed = np.array(golden)
    for (image, *where), value in INJECTIONS.items():
        if start <= image < start + len(golden):
            sizes = golden.shape[1:]
            position = tuple(i % size for i, size in zip(where[-len(sizes) :], sizes, strict=True))
            changed[image - start, *position] = value
    return changed
