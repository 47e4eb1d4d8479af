"""Measured rates as effective counts: the events and faults of a simple random sample that would tell as much."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.survey import SurveyDesign
from testbed.core.arrays import Bools, Float64s
from testbed.sensitivity.rank.measured import MeasuredRows


class EffectiveCounts(NamedTuple):
    """(parts,) each, real numbers; ``events / faults`` is the measured rate."""

    events: Float64s
    faults: Float64s


def effective_counts(inside: NDArray[np.bool_], rows: MeasuredRows) -> EffectiveCounts:
    """Counts as informative as the rows: of each component by the sample's design, fewer by as much as events of one image
    come together.

    inside: (parts, rows), each row in one part at most and each part with rows. The design's standard error takes images as
    given; by how much the sums over images vary more than independent rows would is the factor by which they inform less.
    """
    measured: Bools = np.asarray(inside.any(axis=0))
    label = np.argmax(inside, axis=0)[measured]
    population = np.bincount(rows.stratum, rows.weight)[rows.stratum]
    design = SurveyDesign(rows.stratum, population, np.arange(len(rows)), rows.pool)
    rates = design.domains(label, measured).estimates(rows.sdc1[measured])
    parts = range(len(inside))
    rate = np.array([rates[part].rate for part in parts])
    independent = np.array([rates[part].n_effective for part in parts])
    faults = np.maximum(independent / _image_effect(label, rows, measured), 1.0)
    return EffectiveCounts(rate * faults, faults)


def _image_effect(label: NDArray[np.int64], rows: MeasuredRows, measured: Bools) -> Float64s:
    """(parts,) variance of the sums over images, as a multiple of that of independent rows: 1 or more."""
    weight, image, parts = rows.weight[measured], rows.image[measured], int(label.max()) + 1
    _, group = np.unique(label * (int(rows.pool.max()) + 1) + rows.pool[measured], return_inverse=True)
    size = np.bincount(group, weight)
    excess = weight * (rows.sdc1[measured] - (np.bincount(group, weight * rows.sdc1[measured]) / size)[group])
    cells, of_cell = np.unique(label * (int(rows.image.max()) + 1) + image, return_inverse=True)
    together = np.bincount(of_cell, excess) ** 2
    by_images = np.bincount(cells // (int(rows.image.max()) + 1), together, parts)
    by_rows = np.bincount(label, excess**2, parts)
    return np.maximum(np.where(by_rows > 0, by_images / np.where(by_rows > 0, by_rows, 1.0), 1.0), 1.0)
