"""Effective counts: those of a plain sample where it is one, fewer where faults are weighted or images come together."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.rankings import measured
from numpy.typing import NDArray

from testbed.sensitivity.rank.effective import EffectiveCounts, effective_counts

RATES = np.array([0.0, 0.02, 0.05, 0.1])


def counts(
    design: str, seed: int = 0, images: int = 50
) -> tuple[EffectiveCounts, NDArray[np.bool_], NDArray[np.bool_]]:
    inside, rows = measured(RATES, design, np.random.default_rng(seed), images)
    return effective_counts(inside, rows), inside, rows.sdc1


def test_a_plain_sample_is_itself() -> None:
    plain, inside, sdc1 = counts("counts", images=400)  # each row of a part has an image of its own
    np.testing.assert_allclose(plain.faults, inside.sum(axis=1), rtol=0.01)
    np.testing.assert_allclose(plain.events, (inside & sdc1).sum(axis=1), rtol=0.01)


@pytest.mark.parametrize("design", ["strata", "images"])
def test_they_tell_the_variance_of_the_measured_rate(design: str) -> None:
    """Over many campaigns it is p (1 - p) / faults, or less: one heavy event more could have been seen."""
    played = [counts(design, seed)[0] for seed in range(150)]
    rates = np.array([some.events / some.faults for some in played])[:, 2:]
    faults = np.median([some.faults for some in played], axis=0)[2:]
    stated = RATES[2:] * (1 - RATES[2:]) / faults
    ratio = stated / rates.var(axis=0, ddof=1)
    assert (ratio > 0.75).all()
    assert (ratio < 2).all()


def test_without_an_event_the_faults_are_those_of_the_heaviest_stratum() -> None:
    """400 rows in two strata, the heavy one seven eighths of the population with 200 rows: 200 x 8 / 7 faults' worth."""
    weighted, *_ = counts("strata")
    assert weighted.events[0] == 0
    assert weighted.faults[0] == pytest.approx(200 * 8 / 7, rel=0.02)
