"""Which classes some images are of, for tables, JSON and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

_LISTED = 12  # classes that a line names one by one


def class_counts(labels: ArrayLike, classes: Sequence[str]) -> dict[str, int]:
    """Class name -> images, of the classes that are there, in class order. labels: (n,); one without a name goes by its
    number."""
    counts = np.bincount(np.asarray(labels, np.int64), minlength=len(classes))
    return {classes[k] if k < len(classes) else str(k): int(counts[k]) for k in np.flatnonzero(counts).tolist()}


def classes_told(counts: Mapping[str, int], known: int) -> str:
    """ "128 images of 10 classes: airplane (13), ..."; numbers only where there are many. known: classes of the data set."""
    of = f"{len(counts):,}" if len(counts) == known else f"{len(counts):,} of {known:,}"
    head = f"{sum(counts.values()):,} images of {of} classes"
    if len(counts) <= _LISTED:
        return f"{head}: {', '.join(f'{name} ({count:,})' for name, count in counts.items())}"
    least, most = min(counts.values()), max(counts.values())
    return f"{head}, {least:,} of each" if least == most else f"{head}, {least:,} to {most:,} of each"


def one_class_warning(counts: Mapping[str, int], known: int) -> str | None:
    """What is wrong with images of one class only, where the data set has more; None where they are of several."""
    if len(counts) != 1 or known < 2:
        return None
    [(name, images)] = counts.items()
    return f"all {images:,} images are of one class, {name!r}, of the data set's {known:,}: what is found speaks of it alone"
