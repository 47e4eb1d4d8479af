"""What is known of a campaign's model before anything is run for it: from the cache, and from run folders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import StaleArtefact
from testbed.core.folder.files import sha256_file
from testbed.golden.arrays import read_array
from testbed.golden.reference import LOGITS
from testbed.golden.shared import SharedGolden, array_name


@dataclass(frozen=True)
class KnownModel:
    """``training_epochs``: that the campaign will begin with; none where the model is there. ``logits``: the reference
    golden of all test images (n, K); None where it is yet to be recorded."""

    training_epochs: int = 0
    logits: NDArray[np.float32] | None = None


def cached_logits(shared: SharedGolden) -> NDArray[np.float32] | None:
    """None where they are not in the cache, or are damaged there."""
    cached = shared.cached(array_name(LOGITS))
    digest = cached.digest()
    try:
        if digest is None or sha256_file(cached.path) != digest:
            return None
        return np.array(read_array(cached.path))
    except (OSError, StaleArtefact):  # forgotten meanwhile
        return None
