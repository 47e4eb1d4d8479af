import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from testbed.analysis.outputs.compare import Tolerance, identical, max_abs_diff, mismatch, smallest_atol
from testbed.core.errors import UsageError

INF, NAN = np.inf, np.nan
RTOLS = st.sampled_from([0.0, 1e-16, 1e-7, 1e-5, 0.1, 1.0, 2.0]) | st.floats(0, 4)


@st.composite
def outputs(draw):
    """(faulty, golden): arbitrary floats, many of them neighbours of the golden, so that sums tie and round."""
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    # Within 2**1000, the differences of float64 values are float64 values too.
    elements = st.floats(-(2.0**1000), 2.0**1000) | st.just(INF) | st.just(-INF) | st.just(NAN)
    values = hnp.arrays(dtype, shape, elements=elements if dtype == np.float64 else None)
    golden, faulty = draw(values), draw(values)
    near = draw(hnp.arrays(np.int8, shape, elements=st.integers(-1, 4)))
    with np.errstate(all="ignore"):
        stepped = (golden * (1 + np.finfo(dtype).eps * near)).astype(dtype)
    return np.where(near >= 0, stepped, faulty), golden


@given(outputs(), RTOLS, st.floats(0, 1e300))
def test_an_element_is_outside_exactly_where_isclose_says_so(pair, rtol, atol):
    faulty, golden = pair
    with np.errstate(all="ignore"):
        expected = ~np.isclose(faulty.astype(np.float64), golden.astype(np.float64), rtol=rtol, atol=atol)
    np.testing.assert_array_equal(mismatch(faulty, golden, atol, rtol), expected)


@pytest.mark.parametrize(
    ("faulty", "golden", "outside"),
    [
        (INF, INF, False),
        (-INF, -INF, False),
        (INF, -INF, True),
        (INF, 3e38, True),
        (3e38, INF, True),  # the tolerance of an infinite golden would be infinite
        (NAN, 1.0, True),
        (1.0, NAN, True),
        (NAN, NAN, True),
        (NAN, INF, True),
        (-0.0, 0.0, False),
    ],
)
@pytest.mark.parametrize("rtol", [0.0, 1e-5, 2.0])
def test_special_values(faulty, golden, outside, rtol):
    row = np.array([[faulty]], np.float32), np.array([[golden]], np.float32)
    assert mismatch(*row, 1e-6, rtol).item() == outside
    assert smallest_atol(*row, rtol).item() == (INF if outside else 0)
    assert max_abs_diff(*row).item() == (INF if outside else 0)


def test_an_infinity_is_outside_even_where_the_bound_overflows():
    assert mismatch(np.array([[INF]]), np.array([[1e308]]), 1e-6, 2.0).all()
    assert smallest_atol(np.array([[INF]]), np.array([[1e308]]), 2.0) == INF


def test_the_bound_itself_is_inside():
    assert not mismatch(np.array([[2.0]]), np.array([[1.0]]), 0.5, 0.5).any()
    assert mismatch(np.array([[2.0]]), np.array([[1.0]]), 0.5 - 1e-15, 0.5).all()


def test_the_relative_bound_is_of_the_golden():
    assert not mismatch(np.array([[1.0]]), np.array([[2.0]]), 0, 0.5).any()
    assert mismatch(np.array([[2.0]]), np.array([[1.0]]), 0, 0.5).all()


def test_half_precision_is_compared_in_double():
    """The difference of these float16 neighbours, 0.0009765625, must not be rounded."""
    faulty, golden = np.array([[1.0009765625]], np.float16), np.array([[1.0]], np.float16)
    assert not mismatch(faulty, golden, 0.0009765625, 0).any()
    assert mismatch(faulty, golden, 0.00097656, 0).all()


def test_one_atol_per_row():
    faulty, golden = np.full((3, 2, 2), 1.0), np.zeros((3, 2, 2))
    outside = mismatch(faulty, golden, np.array([0.5, 1.0, 2.0]), 0)
    np.testing.assert_array_equal(outside.all(axis=(1, 2)), [True, False, False])
    np.testing.assert_array_equal(outside.any(axis=(1, 2)), [True, False, False])


@given(outputs(), RTOLS)
def test_smallest_atol_masks_the_row_and_nothing_below_it_does(pair, rtol):
    faulty, golden = pair
    atol = smallest_atol(faulty, golden, rtol)
    some = np.isfinite(atol)
    assert not mismatch(faulty[some], golden[some], atol[some], rtol).any()
    positive = some & (atol > 0)
    below = np.nextafter(atol[positive], 0)
    assert mismatch(faulty[positive], golden[positive], below, rtol).any(axis=1).all()
    assert mismatch(faulty[~some], golden[~some], 1.7e308, rtol).any(axis=1).all()


@given(outputs(), RTOLS, st.floats(0, 1e300))
def test_a_sweep_over_atol_needs_only_the_smallest(pair, rtol, atol):
    faulty, golden = pair
    masked = ~mismatch(faulty, golden, atol, rtol).any(axis=1)
    np.testing.assert_array_equal(smallest_atol(faulty, golden, rtol) <= atol, masked)


EPS = 2.0**-52


@pytest.mark.parametrize(
    ("distance", "atol"),
    [
        (1 + EPS, np.nextafter(EPS / 2, 1)),  # 1 + EPS/2 is a tie and rounds to even: down, to 1
        (1 + 2 * EPS, 1.5 * EPS),  # 1 + 1.5 EPS is a tie and rounds to even: up
        (1.0, 0.0),
        (2.0, 1 - EPS / 2),  # from half a gap below 2 the sum rounds up to it
    ],
)
def test_smallest_atol_under_rounding(distance, atol):
    """golden 1, rtol 1: the relative part is 1, and ``1 + atol`` must round to at least the distance."""
    faulty, golden = np.array([[1.0 - distance]]), np.array([[1.0]])
    assert abs(faulty - golden).item() == distance
    assert smallest_atol(faulty, golden, 1.0).item() == atol


def test_the_element_with_the_largest_excess_need_not_decide():
    """The first exceeds its relative part by 2 EPS, half an EPS of which rounding forgives; the second by 1.8 EPS."""
    faulty, golden = np.array([[-2 * EPS, 1.8 * EPS]]), np.array([[1.0, 0.0]])
    assert smallest_atol(faulty, golden, 1.0).item() == 1.8 * EPS


def test_no_relative_tolerance_leaves_the_largest_difference():
    faulty, golden = np.array([[1.0, -4.0], [5.0, 5.0]]), np.array([[0.5, 2.0], [5.0, 5.0]])
    np.testing.assert_array_equal(smallest_atol(faulty, golden, 0), [6.0, 0.0])
    np.testing.assert_array_equal(max_abs_diff(faulty, golden), [6.0, 0.0])


@given(outputs())
def test_largest_difference(pair):
    faulty, golden = (x.astype(np.float64) for x in pair)
    expected = []
    for y, g in zip(faulty.tolist(), golden.tolist(), strict=True):
        parts = [0.0 if a == b else abs(a - b) for a, b in zip(y, g, strict=True)]
        expected.append(INF if any(np.isnan(p) for p in parts) else max(parts))
    np.testing.assert_array_equal(max_abs_diff(*pair), expected)


@given(outputs())
@example((np.array([[-0.0]]), np.array([[0.0]])))
@example((np.array([[NAN]]), np.array([[-NAN]])))
def test_identical_means_the_same_bytes(pair):
    faulty, golden = pair
    expected = [a.tobytes() == b.tobytes() for a, b in zip(faulty, golden, strict=True)]
    np.testing.assert_array_equal(identical(faulty, golden), expected)


def test_identical_counts_nan_payloads_and_the_sign_of_zero():
    words = np.array([[0x7FC00000, 0], [0x7FC00001, 0], [0x7FC00000, 0x80000000]], np.uint32)
    golden = np.tile(words[:1], (3, 1)).view(np.float32)
    np.testing.assert_array_equal(identical(words.view(np.float32), golden), [True, False, False])


def test_identical_looks_at_strided_views():
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert identical(values[:, ::2], values[:, ::2].copy()).all()


def test_different_types_or_shapes_are_refused():
    with pytest.raises(ValueError, match="float32 outputs"):
        identical(np.zeros((2, 3), np.float32), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="cannot be compared"):
        mismatch(np.zeros((2, 3)), np.zeros((2, 4)), 0, 0)
    with pytest.raises(ValueError, match="cannot be compared"):
        max_abs_diff(np.zeros((2, 3)), np.zeros((3,)))


def test_no_rows_are_no_trouble():
    none = np.zeros((0, 3, 2), np.float32)
    assert mismatch(none, none, 0, 0).shape == (0, 3, 2)
    assert smallest_atol(none, none, 0).shape == max_abs_diff(none, none).shape == identical(none, none).shape == (0,)


@pytest.mark.parametrize("values", [(-1e-6, 0), (0, NAN), (INF, 0)])
def test_a_tolerance_is_finite_and_not_negative(values):
    with pytest.raises(UsageError, match="must be a finite number, 0 or more"):
        Tolerance(*values)


def test_the_fixed_injection_list():
    """The published check of the comparator: five values overwritten in four of 512 attention outputs."""
    golden = np.random.default_rng(0).standard_normal((512, 50, 64), np.float32)
    faulty = golden.copy()
    for image, token, column, value in [
        (150, 34, 13, 12),
        (150, 34, 54, 12),
        (200, 5, 5, INF),
        (201, 2, 23, NAN),
        (300, 34, 13, 12),
    ]:
        faulty[image, token, column] = value
    outside = mismatch(faulty, golden, 5e-6, 1e-5)
    np.testing.assert_array_equal(np.flatnonzero(outside.any(axis=(1, 2))), [150, 200, 201, 300])
    np.testing.assert_array_equal(outside.sum(axis=(1, 2))[[150, 200, 201, 300]], [2, 1, 1, 1])
