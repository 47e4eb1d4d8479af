import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from testbed.analysis.multiplicity import holm_adjusted
from testbed.analysis.shares import ShareTally


@pytest.mark.parametrize("hits", [0, 3, 10, 20])
def test_hits_and_misses_have_clopper_and_pearsons_interval(hits):
    """But for the sample variance, of which n - 1 is the divisor: a little wider, and equal where nothing varies."""
    tally = ShareTally()
    tally.add([1] * hits + [0] * (20 - hits))
    estimate = tally.estimate()
    low, high = proportion_confint(hits, 20, method="beta")
    assert (estimate.value, estimate.images) == (hits / 20, 20)
    assert estimate.low <= low + 1e-12
    assert estimate.high >= high - 1e-12
    assert estimate.high - estimate.low == pytest.approx(high - low, rel=0.03 if 0 < hits < 20 else 1e-9)


def test_sums_do_not_depend_on_the_batches():
    values = np.random.default_rng(0).random((50, 2, 3))
    whole, parts = ShareTally(2, 3), ShareTally(2, 3)
    whole.add(values)
    for part in np.array_split(values, 7):
        parts.add(part)
    assert np.allclose(whole.means, values.mean(0))
    for one_batch, several in zip(whole.estimates(), parts.estimates(), strict=True):
        assert one_batch.low == pytest.approx(several.low)
        assert one_batch.high == pytest.approx(several.high)


def test_the_interval_covers_the_mean_of_shares_as_often_as_it_says():
    rng = np.random.default_rng(1)
    tally = ShareTally(1000)
    tally.add(rng.beta(2, 5, (60, 1000)))
    inside = [estimate.low <= 2 / 7 <= estimate.high for estimate in tally.estimates()]
    assert 930 <= sum(inside) <= 995


def test_what_is_not_defined_does_not_count():
    tally = ShareTally(2)
    tally.add([[0.5, np.nan], [0.7, np.nan]])
    known, unknown = tally.estimates()
    assert known.value == pytest.approx(0.6)
    assert known.images == 2
    assert math.isnan(unknown.value)
    assert (unknown.low, unknown.high, unknown.images) == (0.0, 1.0, 0)
    assert known.scaled(2, -1).value == pytest.approx(0.2)


@pytest.mark.parametrize("values", [[[1.1]], [[-0.1]], [0.5]])
def test_what_is_no_share_is_refused(values):
    with pytest.raises(ValueError, match="shares"):
        ShareTally(1).add(values)


def test_holm_is_statsmodels():
    p = np.random.default_rng(2).random(20) ** 4
    assert np.allclose(holm_adjusted(p), multipletests(p, method="holm")[1])
    with_gap = holm_adjusted([0.01, np.nan, 0.04])
    assert np.allclose(with_gap, [0.02, np.nan, 0.04], equal_nan=True)
