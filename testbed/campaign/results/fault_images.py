"""How many rows each planned fault gives: one per image that it is run on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from testbed.core.arrays import Int64s

COLUMNS = ("image_id", "image_ids")
"""Columns of a plan that say on which images its faults are run."""


def rows_each(plan: pa.Table, images: int) -> Int64s:
    """(faults,) rows of each planned fault: 1 of a fault with an image of its own, else its drawn images, or all of them.

    plan: with the columns of `COLUMNS`. images: how many are named.
    """
    drawn = pc.fill_null(pc.list_value_length(plan.column("image_ids")), images).to_numpy()
    return np.where(pc.is_null(plan.column("image_id")).to_numpy(), drawn, 1).astype(np.int64)
