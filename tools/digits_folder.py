"""scikit-learn's digits as image files in class folders, as torchvision's ImageFolder reads them; for models of any size.

    python tools/digits_folder.py DIR

1,437 images to train and 360 to test, RGB, 8 x 8 pixels; the same split each time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TRAIN = 1437
LARGEST = 16  # of the data set's pixels


def write_digits(folder: Path) -> None:
    """Raises FileExistsError where there is something already."""
    digits = load_digits()
    folder.mkdir(parents=True)
    order = np.random.default_rng(0).permutation(len(digits.images))
    for place, number in enumerate(order):
        where = folder / ("train" if place < TRAIN else "test") / str(digits.target[number])
        where.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * 255 / LARGEST).round().astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(where / f"{number:04d}.png")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        write_digits(Path(sys.argv[1]))
    except FileExistsError:
        sys.exit(f"error: {sys.argv[1]} exists; name a folder that does not")


if __name__ == "__main__":
    main()
