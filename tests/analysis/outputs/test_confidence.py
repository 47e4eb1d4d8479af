import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from testbed.analysis.outputs.confidence import (
    TierEdges,
    assign_tiers,
    first_of_each,
    margin,
    probability_of,
    softmax,
    tiers_from_logits,
    top1,
)
from testbed.core.errors import UsageError

INF, NAN = np.inf, np.nan
FINITE = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 8)),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
MARGINS = hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(0, 1))
EDGES = st.lists(st.floats(0.001, 0.999), unique=True, max_size=6).map(lambda e: TierEdges((*sorted(e), 1.0)))


@given(FINITE)
def test_softmax_agrees_with_scipy(logits):
    np.testing.assert_allclose(softmax(logits), scipy.special.softmax(logits.astype(np.float64), axis=-1), rtol=1e-14)


def test_softmax_takes_infinities_to_their_limit():
    rows = [[INF, 0, INF, -INF], [-INF, 0, 0, -INF], [-INF] * 4, [1e308, -1e308, 1e308, 0]]
    np.testing.assert_array_equal(softmax(rows), [[0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0], [0.25] * 4, [0.5, 0, 0.5, 0]])


def test_a_row_with_nan_is_nan_and_the_others_are_not():
    rows = np.array([[NAN, 0, 1], [INF, NAN, 1], [-INF, NAN, -INF], [0, 0, 0]])
    np.testing.assert_array_equal(np.isnan(softmax(rows)).all(axis=1), [True, True, True, False])
    np.testing.assert_array_equal(np.isnan(margin(rows)), [True, True, True, False])
    np.testing.assert_array_equal(top1(rows), [-1, -1, -1, 0])


def test_margin_is_the_gap_of_the_two_largest_probabilities():
    logits = np.log([[0.1, 0.6, 0.3], [0.5, 0.5, 1e-300]])
    np.testing.assert_allclose(margin(logits), [0.3, 0.0], atol=1e-15)
    np.testing.assert_array_equal(margin([[3.0]]), [1.0])


def test_probability_of_a_class():
    np.testing.assert_allclose(probability_of(np.log([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]), [2, 0]), [0.3, 0.2])


def test_top1_takes_the_first_on_ties():
    np.testing.assert_array_equal(top1([[1.0, 2, 2], [INF, INF, 0], [-INF, -INF, -INF]]), [1, 0, 0])


@given(MARGINS, EDGES, st.randoms())
def test_a_tier_is_a_right_closed_interval(margins, edges, random):
    margins = np.array([random.choice([m, random.choice(edges.edges)]) for m in margins.tolist()])
    correct = np.array([random.random() < 0.8 for _ in margins], bool)
    lows = (-1.0, *edges.edges)  # the first tier has 0 as well
    expected = [
        next(t for t in range(len(edges)) if lows[t] < m <= edges.edges[t]) if right else -1
        for m, right in zip(margins.tolist(), correct.tolist(), strict=True)
    ]
    tiers = assign_tiers(margins, correct, edges)
    assert tiers.dtype == np.int16
    np.testing.assert_array_equal(tiers, expected)


def test_the_preset_edges():
    above = np.nextafter(0.25, 1)
    assigned = assign_tiers([0, 0.25, above, 0.5, 0.75, 1.0, 1.0], [1, 1, 1, 1, 1, 1, 0], TierEdges.preset(4))
    np.testing.assert_array_equal(assigned, [0, 0, 1, 1, 2, 3, -1])
    np.testing.assert_array_equal(assign_tiers([0.2, 0.21, 0.8, 0.9], [1] * 4, TierEdges.preset(5)), [0, 1, 3, 4])
    assert TierEdges.preset(4).name(0) == "[0, 0.25]"
    assert TierEdges.preset(4).name(1) == "(0.25, 0.5]"


@pytest.mark.parametrize("edges", [(), (0.5,), (0.5, 0.5, 1), (0.6, 0.5, 1), (0, 1), (-0.1, 1), (0.5, 1.5), (NAN, 1)])
def test_edges_that_are_no_partition_are_refused(edges):
    with pytest.raises(UsageError, match="ascend from above 0 to exactly 1"):
        TierEdges(edges)


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="4 and 5 tiers, not 3"):
        TierEdges.preset(3)


def test_a_margin_that_is_not_one_is_refused_only_where_it_counts():
    with pytest.raises(UsageError, match=r"1 image\(s\) .*positions 2"):
        assign_tiers([0.1, NAN, NAN], [True, False, True], TierEdges.preset(4))


SHARES = np.array(
    [
        [0.90, 0.05, 0.05],  # 0.85
        [0.40, 0.35, 0.25],  # 0.05
        [0.10, 0.80, 0.10],  # wrong
        [0.45, 0.10, 0.45],  # a tie, right by being first: 0
        [0.70, 0.20, 0.10],  # 0.5, but rounding of the logarithms decides its side
        [0.64, 0.20, 0.16],  # 0.44
    ]
)


def test_tiers_of_logits():
    tiers = tiers_from_logits(np.log(SHARES), np.zeros(6, int), TierEdges((0.25, 0.6, 1)))
    assert [p.tolist() for p in tiers.positions] == [[1, 3], [4, 5], [0]]
    assert tiers.correct.tolist() == [0, 1, 3, 4, 5]
    assert tiers.incorrect.tolist() == [2]
    assert tiers.tier_of.tolist() == [2, 0, -1, 0, 1, 1]
    np.testing.assert_allclose(tiers.margins, [0.85, 0.05, 0.7, 0, 0.5, 0.44], atol=1e-12)


def test_images_without_confidence_are_named():
    logits = np.zeros((9, 3))
    logits[[1, 4], 2] = NAN
    names = [f"img-{i}" for i in range(9)]
    with pytest.raises(UsageError, match=r"2 image\(s\) hold NaN: img-1, img-4;"):
        tiers_from_logits(logits, np.zeros(9), TierEdges.preset(4), names)
    logits[:, 0] = NAN
    with pytest.raises(UsageError, match=r"9 image\(s\) hold NaN: 0, 1, 2, 3, 4, \.\.\.;"):
        tiers_from_logits(logits, np.zeros(9), TierEdges.preset(4))


def test_a_label_per_row():
    with pytest.raises(UsageError, match="6 rows of logits but 5 labels"):
        tiers_from_logits(SHARES, np.zeros(5), TierEdges.preset(4))


def test_the_first_of_each_tier_in_dataset_order():
    tiers = tiers_from_logits(np.log(SHARES), np.zeros(6, int), TierEdges((0.25, 0.6, 1)))
    assert first_of_each(tiers, [1, 2, 1]).tolist() == [1, 4, 5, 0]
    assert first_of_each(tiers, [2, 0, 0]).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("wants", "message"),
    [
        ([2, 3, 1], r"tier 1 \(0\.25, 0\.6\] has 2 images and 3 were asked for"),
        ([2, 2], "3 tiers and 2 wanted sizes"),
        ([2, -1, 1], "tier 1: -1 images"),
    ],
)
def test_wants_that_cannot_be_met(wants, message):
    tiers = tiers_from_logits(np.log(SHARES), np.zeros(6, int), TierEdges((0.25, 0.6, 1)))
    with pytest.raises(UsageError, match=message):
        first_of_each(tiers, wants)
