import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.outputs.compare import mismatch, smallest_atol
from testbed.analysis.outputs.confidence import margin, probability_of
from testbed.analysis.outputs.outcome import GoldenSide, classify
from testbed.core.errors import TestbedError, UsageError
from testbed.core.outcome import OUTCOMES

INF, NAN = np.inf, np.nan
GOLDEN = np.array([[4, 3, 2, 1, 0, -1, -2]], np.float32)
TINY = np.nextafter(np.float32(4), np.float32(5))


def of_one(faulty, golden=GOLDEN, atol=1e-6, rtol=1e-5, rtol_grid=(0.0,), **options):
    return classify(np.array([faulty], np.float32), golden, atol, rtol, rtol_grid, **options)


@pytest.mark.parametrize(
    ("faulty", "outcome"),
    [
        ([4, 3, 2, 1, 0, -1, -2], "identical"),
        ([TINY, 3, 2, 1, 0, -1, -2], "masked"),
        ([4, 3, 2, 1, -0.0, -1, -2], "masked"),
        ([4, 3, 2, 1, 0.1, -1, -2], "sdc_tolerable"),
        ([4, 5, 2, 1, 0, -1, -2], "sdc1"),
        ([4, NAN, 2, 1, 0, -1, -2], "sdc1"),
        ([4, -INF, 2, 1, 0, -1, -2], "sdc_tolerable"),
        ([4, INF, 2, 1, 0, -1, -2], "sdc1"),
        ([INF, 3, 2, 1, 0, -1, -2], "sdc_tolerable"),
    ],
)
def test_the_partition(faulty, outcome):
    assert of_one(faulty).names().tolist() == [outcome]


def test_inside_the_tolerance_is_masked_though_the_top1_changed():
    """A near tie of the golden: the partition asks for the tolerance first."""
    assert of_one([1, 1.0000005], golden=np.array([[1.0000005, 1]], np.float32)).names() == "masked"


@pytest.mark.parametrize(
    ("faulty", "sdc5"),
    [
        ([4, 3, 2, 1, 9, -1, -2], False),
        ([4, 3, 2, 1, 0, 9, -2], True),
        ([4, 3, 2, 1, 0, -1, 9], True),
        ([4, NAN, 2, 1, 0, -1, -2], True),
    ],
)
def test_sdc5_is_a_top1_outside_the_goldens_best_five(faulty, sdc5):
    assert of_one(faulty).sdc5.item() == sdc5


def test_with_five_classes_only_an_output_without_top1_is_sdc5():
    golden = np.arange(5, dtype=np.float32)[None]
    assert not of_one([9, 1, 2, 3, 4], golden).sdc5
    assert of_one([NAN, 1, 2, 3, 4], golden).sdc5


def test_the_best_five_prefer_the_first_class_on_ties():
    golden = np.zeros((1, 7), np.float32)
    assert not of_one([0, 0, 0, 0, 1, 0, 0], golden).sdc5
    assert of_one([0, 0, 0, 0, 0, 1, 0], golden).sdc5


@pytest.mark.parametrize(
    ("share", "sdc10", "sdc20"),
    [(0.5, False, False), (0.549, False, False), (0.551, True, False), (0.599, True, False), (0.449, True, False),
     (0.601, True, True), (0.399, True, True), (NAN, True, True)],
)  # fmt: skip
def test_sdc10_and_sdc20_are_relative_to_the_goldens_probability(share, sdc10, sdc20):
    result = of_one(np.log([share, 1 - share]), golden=np.log([[0.5, 0.5]]).astype(np.float32))
    assert (result.sdc10.item(), result.sdc20.item()) == (sdc10, sdc20)


def test_the_probability_is_the_goldens_class_also_when_the_top1_changed():
    result = of_one(np.log([0.2, 0.7, 0.1]), golden=np.log([[0.6, 0.3, 0.1]]).astype(np.float32))
    assert result.names() == "sdc1"
    assert (result.top1_golden.item(), result.top1_faulty.item()) == (0, 1)
    np.testing.assert_allclose([result.probability_golden[0], result.probability_faulty[0]], [0.6, 0.2], rtol=1e-6)
    np.testing.assert_allclose([result.margin_golden[0], result.margin_faulty[0]], [0.3, 0.5], rtol=1e-6)


def test_nan_has_no_top1_and_infinite_values_are_nonfinite():
    result = of_one([4, NAN, 2, 1, 0, -1, -2])
    assert result.top1_faulty == -1
    assert np.isnan([result.margin_faulty[0], result.probability_faulty[0]]).all()
    assert result.max_abs_diff == INF
    assert result.masking_atol == INF
    assert result.nonfinite
    assert of_one([4, -INF, 2, 1, 0, -1, -2]).nonfinite
    assert not of_one([4, 0, 2, 1, 0, -1, -2]).nonfinite


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_detector_of_nonfinite_outputs_turns_them_into_due(value):
    faulty = np.concatenate([GOLDEN, GOLDEN])
    faulty[0, 3] = value
    seen = classify(faulty, np.repeat(GOLDEN, 2, 0), 1e-6, 0, (0.0,), detector="nonfinite")
    assert seen.detected.tolist() == [True, False]
    assert seen.names().tolist() == ["due", "identical"]
    unseen = classify(faulty, np.repeat(GOLDEN, 2, 0), 1e-6, 0, (0.0,), detector="none")
    assert unseen.detected.tolist() == [False, False]
    assert unseen.nonfinite.tolist() == [True, False]
    assert "due" not in unseen.names()


def test_without_classes_there_is_only_sdc():
    golden = np.ones((4, 3, 2), np.float32)
    faulty = golden.copy()
    faulty[1, 0, 0], faulty[2, 2, 1], faulty[3] = 1.0000001, 5, NAN
    result = classify(faulty, golden, 1e-6, 1e-5, (0.0, 1.0), has_classes=False)
    assert result.names().tolist() == ["identical", "masked", "sdc", "sdc"]
    assert result.mismatches.tolist() == [0, 0, 1, 6]
    assert (result.top1_golden, result.sdc5, result.margin_faulty) == (None, None, None)
    np.testing.assert_array_equal(result.masking_atol[2:], [[4, 3], [INF, INF]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
def test_the_rows_agree_with_the_single_measures(seed, classes, per_row):
    rng = np.random.default_rng(seed)
    golden = rng.normal(size=(20, classes)).astype(np.float32)
    scale = 10.0 ** rng.integers(-9, 3, (20, 1))
    faulty = (golden + scale * rng.normal(size=golden.shape)).astype(np.float32)
    faulty[rng.random(golden.shape) < 0.02] = rng.choice([NAN, INF, -INF])
    atol, grid = rng.choice([1e-6, 1e-3], 20) if per_row else 1e-4, (0.0, 1e-5, 1e-2)
    result = classify(faulty, golden, atol, 1e-5, grid)

    np.testing.assert_array_equal(result.mismatches, mismatch(faulty, golden, atol, 1e-5).sum(axis=1))
    np.testing.assert_array_equal(
        result.masking_atol, np.stack([smallest_atol(faulty, golden, r) for r in grid], axis=1)
    )
    inside = np.isin(result.names(), ["identical", "masked"])
    np.testing.assert_array_equal(inside, result.masking_atol[:, 1] <= atol)
    np.testing.assert_array_equal(result.names() == "sdc1", ~inside & (result.top1_faulty != result.top1_golden))
    assert result.top1_faulty is not None
    assert result.margin_faulty is not None
    assert result.margin_golden is not None
    assert result.probability_golden is not None
    rank = (golden > np.take_along_axis(golden, result.top1_faulty[:, None], axis=1)).sum(axis=1)
    np.testing.assert_array_equal(result.sdc5, (rank >= 5) | (result.top1_faulty == -1))
    np.testing.assert_allclose(result.margin_faulty, margin(faulty), rtol=1e-6)
    np.testing.assert_allclose(result.margin_golden, margin(golden), rtol=1e-6)
    golden_probability = probability_of(golden, golden.argmax(axis=1))
    faulty_probability = probability_of(faulty, golden.argmax(axis=1))
    np.testing.assert_allclose(result.probability_golden, golden_probability, rtol=1e-6)
    moved = abs(faulty_probability - golden_probability) > 0.1 * golden_probability
    np.testing.assert_array_equal(result.sdc10, moved | np.isnan(faulty_probability))


def test_large_outputs_are_compared_in_parts_with_the_same_result():
    rng = np.random.default_rng(0)
    golden = rng.normal(size=(7, 300, 200)).astype(np.float32)
    faulty = golden + (rng.random(golden.shape) < 1e-4) * np.float32(0.1)
    atol = np.array([1e-6, 1, 1, 1e-6, 1, 1e-6, 1])
    together = classify(faulty, golden, atol, 0, (0.0,), has_classes=False)
    np.testing.assert_array_equal(together.mismatches > 0, atol < 1)
    for row in range(7):
        alone = classify(faulty[row : row + 1], golden[row : row + 1], atol[row], 0, (0.0,), has_classes=False)
        assert alone.mismatches == together.mismatches[row]
        assert alone.masking_atol == together.masking_atol[row]


def test_the_golden_side_is_made_once_and_gathered():
    rng = np.random.default_rng(1)
    golden = rng.normal(size=(5, 10)).astype(np.float32)
    rows = [3, 3, 0, 4]
    faulty = rng.normal(size=(4, 10)).astype(np.float32)
    gathered = classify(faulty, GoldenSide.of(golden, True).take(rows), 1e-6, 1e-5, (0.0,))
    direct = classify(faulty, golden[rows], 1e-6, 1e-5, (0.0,))
    for name, value in vars(direct).items():
        np.testing.assert_array_equal(getattr(gathered, name), value, err_msg=name)
    without = GoldenSide.of(golden, False).take(rows)
    assert without.top1 is None
    np.testing.assert_array_equal(without.values, golden[rows])


def test_the_types_are_those_of_the_result_rows():
    result = of_one([4, 5, 2, 1, 0, -1, -2])
    types = {name: str(value.dtype) for name, value in vars(result).items()}
    assert types == {
        "outcome": "int8", "nonfinite": "bool", "detected": "bool", "max_abs_diff": "float64", "mismatches": "int32",
        "masking_atol": "float64", "sdc5": "bool", "sdc10": "bool", "sdc20": "bool", "top1_golden": "int16",
        "top1_faulty": "int16", "margin_golden": "float32", "margin_faulty": "float32",
        "probability_golden": "float32", "probability_faulty": "float32",
    }  # fmt: skip
    assert OUTCOMES[result.outcome.item()] == "sdc1"


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(UsageError, match="unknown detector 'parity'; known: none, nonfinite"):
        of_one(GOLDEN[0], detector="parity")
    with pytest.raises(TestbedError, match=r"1 image\(s\) hold NaN \(first at position 0\)"):
        GoldenSide.of(np.array([[1, NAN]], np.float32), True)
    with pytest.raises(ValueError, match="has_classes"):
        classify(GOLDEN, GoldenSide.of(GOLDEN, False), 0, 0, (0.0,), has_classes=True)
    with pytest.raises(ValueError, match="cannot be compared"):
        classify(GOLDEN, GOLDEN[:, :3], 0, 0, (0.0,))


def test_no_rows():
    none = np.zeros((0, 10), np.float32)
    assert classify(none, none, 1e-6, 0, (0.0, 1.0)).masking_atol.shape == (0, 2)
