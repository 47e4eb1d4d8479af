"""The compiled judge against the NumPy one, bit for bit: the installed library, and one compiled here, in every instruction
set that this processor has."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testbed.analysis.outputs import native_judge, outcome
from testbed.analysis.outputs.native_judge import SETS, judge
from testbed.analysis.outputs.outcome import GoldenSide, classify, measured
from tests.support.compiled_cpu import compiled_cpu

KERNELS = Path(__file__).parents[3] / "kernels"
INF, NAN = np.inf, np.nan
EPS = np.float32(2.0**-52)
BLOCK = 256  # kernels/judge.cpp: rows of more elements are looked at in blocks
GRID = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
CORNERS = np.array(
    [
        *(0x7FC00000, 0x7FC00001, 0xFFC12345, 0x7F800001),  # NaNs with payloads, one of them signalling
        *(0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF),  # infinities and their neighbours
        *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF),  # zeros and denormals
        *(0x3F800000, 0x3F800001, 0x3F7FFFFF, 0xBF800000),  # about one
    ],
    np.uint32,
)


@pytest.fixture(scope="module", params=["installed", "compiled"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "compiled":
            patch.setenv("TESTBED_NATIVE", str(compiled_cpu(tmp_path_factory.mktemp("judge"))))
            assert native_judge.sets()
        elif not native_judge.sets():
            pytest.skip("the library was not built, or without the judge")
        yield


def assert_same(faulty, golden, atol, rtol, grid, golden_row=None):
    rows = np.arange(len(faulty)) if golden_row is None else golden_row
    with np.errstate(all="ignore"):
        expected = measured(faulty, golden[rows], atol, rtol, grid)
    for instruction_set in native_judge.sets():
        found = judge(faulty, golden, golden_row, atol, rtol, grid, instruction_set)
        assert found is not None
        for name, value in found._asdict().items():
            wanted = getattr(expected, name)
            assert value.dtype == wanted.dtype
            np.testing.assert_array_equal(value, wanted, err_msg=f"{name}, {instruction_set}")


@st.composite
def outputs(draw):
    """(faulty, golden): any bits, special values, and neighbours of the golden by a few units in the last place, so that
    sums tie, cancel and round; in rows of some elements, or of several blocks that are the golden's elsewhere."""
    rows, some = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    word = st.sampled_from(CORNERS.tolist()) | st.integers(0, 2**32 - 1) | st.integers(0x3F000000, 0x40000000)
    golden, faulty = (
        np.array(draw(st.lists(word, min_size=rows * some, max_size=rows * some)), np.uint32) for _ in range(2)
    )
    near = np.array(draw(st.lists(st.integers(-2, 4), min_size=rows * some, max_size=rows * some)), np.int64)
    faulty = np.where(near >= 0, golden + near, faulty).astype(np.uint32).reshape(rows, some).view(np.float32)
    golden = golden.reshape(rows, some).view(np.float32)
    elements = draw(st.sampled_from([some, some, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]))
    if elements == some:
        return faulty, golden
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    large = rng.standard_normal((rows, elements)).astype(np.float32)
    change = draw(st.just(0.0) | st.integers(-23, -3).map(lambda power: 2.0**power))
    injected, places = large * np.float32(1 + change), rng.choice(elements, some, replace=False)
    large[:, places], injected[:, places] = golden, faulty
    return injected, large


TOLERANCES = st.sampled_from([0.0, 1e-16, 1e-7, 1e-5, 0.1, 1.0, 2.0, 1e300]) | st.floats(0, 4)
# Of the first, the second excess decides: see test_compare. The others overflow, vanish, and have every kind of NaN.
DECIDED_BY_THE_SECOND = (np.array([[-2 * EPS, 1.8 * EPS]], np.float32), np.array([[1, 0]], np.float32))


@given(outputs(), st.lists(TOLERANCES, max_size=6), TOLERANCES, TOLERANCES)
@example(DECIDED_BY_THE_SECOND, [1.0, 0.0], 1e-16, 1.0)
@example((np.array([[3e38, -3e38]], np.float32), np.array([[-3e38, INF]], np.float32)), [1e300], 0.0, 1e300)
@example((np.array([[1e-45, -0.0]], np.float32), np.array([[0.0, 0.0]], np.float32)), [0.5], 0.0, 0.0)
@example((np.full((1, 3), NAN, np.float32), np.full((1, 3), NAN, np.float32)), [0.0, 1.0], 1.0, 1.0)
@example((np.array([[INF, -INF]], np.float32), np.array([[INF, -INF]], np.float32)), [0.0, 1.0], 0.0, 0.0)
@example((np.array([[INF]], np.float32), np.array([[3e38]], np.float32)), [1e300], 0.0, 1e300)
def test_bit_equal_to_the_reference(kernel, pair, grid, atol, rtol):
    faulty, golden = pair
    assert_same(faulty, golden, np.full(len(faulty), atol), rtol, grid)


def test_rows_like_those_of_campaigns(kernel):
    """Noise of every size, single elements, whole rows of NaN and infinities, outputs of many blocks, tolerances per row."""
    rng = np.random.default_rng(0)
    golden = rng.standard_normal((5, 3, 1000)).astype(np.float32)
    golden[4, 0, 0] = INF
    row = rng.integers(0, 5, 60)
    faulty = golden[row] * (1 + 10.0 ** rng.integers(-8, 2, (60, 1, 1)) * rng.standard_normal((60, 3, 1000)))
    faulty = faulty.astype(np.float32)
    faulty[:10] = golden[row[:10]]
    faulty[3:6, 2, 999] += np.float32(1e-3)
    faulty[6, 1, 5], faulty[7, 2, 998], faulty[8] = NAN, -INF, NAN
    assert_same(faulty, golden, rng.choice([0.0, 1e-6, 1e-3, 1.0], 60), 1e-4, GRID, row)


def test_at_the_very_tolerance_that_masks_and_just_below_it(kernel):
    """Bounds that tie with a distance: a kernel whose compiler fused the product with the sum would fail here."""
    rng = np.random.default_rng(1)
    golden = rng.standard_normal((200, 20)).astype(np.float32)
    faulty = golden + (0.3 * rng.standard_normal(golden.shape)).astype(np.float32)
    for rtol in (1e-3, 0.1, 0.3):
        atol = measured(faulty, golden, np.zeros(200), 0.0, (rtol,)).masking_atol[:, 0]
        assert_same(faulty, golden, atol, rtol, (rtol,))
        assert_same(faulty, golden, np.maximum(np.nextafter(atol, 0), 0), rtol, (rtol,))
        found = judge(faulty, golden, None, atol, rtol, ())
        assert found is not None
        assert not found.mismatches.any()


def test_ties_in_several_blocks_are_all_looked_at(kernel):
    """The same excess in every block, and one element that needs half a unit in the last place more."""
    golden, faulty = np.zeros((2, 4 * BLOCK), np.float32), np.full((2, 4 * BLOCK), 1.8 * EPS, np.float32)
    golden[0, 700], faulty[0, 700] = DECIDED_BY_THE_SECOND[1][0, 0], DECIDED_BY_THE_SECOND[0][0, 0]
    assert_same(faulty, golden, np.zeros(2), 0.0, (0.0, 1e-3, 1.0))


@pytest.mark.parametrize("shape", [(0, 10), (3, 0), (0, 0), (2, 0, 5)])
def test_nothing_to_judge(kernel, shape):
    assert_same(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape[0]), 0.0, GRID)


def test_without_a_grid_there_is_no_masking_atol(kernel):
    assert_same(np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32), np.zeros(3), 0.0, ())


def test_a_strided_view_is_judged_by_its_elements(kernel):
    values = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    assert_same(values[::2, ::2], values[1::2, 1::2], np.zeros(3), 0.0, GRID)


@pytest.mark.parametrize("atol", [-1.0, NAN, INF])
@pytest.mark.parametrize("where", ["atol", "rtol", "grid"])
def test_what_is_no_tolerance_is_left_to_the_reference(kernel, where, atol):
    bounds: dict[str, Any] = {"atol": np.zeros(2), "rtol": 0.0, "rtol_grid": (0.0, 1.0)}
    bounds |= {"atol": {"atol": np.array([0.0, atol])}, "rtol": {"rtol": atol}, "grid": {"rtol_grid": (0.0, atol)}}[
        where
    ]
    ones = np.ones((2, 3), np.float32)
    assert judge(ones, ones, None, **bounds) is None


def test_what_it_cannot_judge_is_left_to_the_reference(kernel):
    ones = np.ones((2, 3), np.float32)
    assert judge(ones.astype(np.float16), ones.astype(np.float16), None, np.zeros(2), 0.0, GRID) is None
    assert judge(ones, ones.astype(np.float64), None, np.zeros(2), 0.0, GRID) is None
    assert judge(ones, np.ones((2, 4), np.float32), None, np.zeros(2), 0.0, GRID) is None


@pytest.mark.parametrize("rows", [[0, 2], [-1, 0], [2**62, 0]])
def test_a_golden_that_is_not_there_is_never_read(kernel, rows):
    ones = np.ones((2, 3), np.float32)
    assert judge(ones, ones, np.array(rows), np.zeros(2), 0.0, GRID) is None
    assert judge(ones, ones[:1], None, np.zeros(2), 0.0, GRID) is None


def test_an_instruction_set_of_another_processor_is_refused(kernel):
    ones = np.ones((2, 3), np.float32)
    for lacking in SETS[len(native_judge.sets()) :]:
        assert judge(ones, ones, None, np.zeros(2), 0.0, GRID, lacking) is None


@given(st.integers(0, 2**32 - 1))
def test_outcomes_are_the_same_with_and_without_it(kernel, seed):
    rng = np.random.default_rng(seed)
    golden = rng.normal(size=(4, 7)).astype(np.float32)
    row = rng.integers(0, 4, 30)
    faulty = (golden[row] + 10.0 ** rng.integers(-9, 3, (30, 1)) * rng.normal(size=(30, 7))).astype(np.float32)
    faulty[rng.random(faulty.shape) < 0.02] = rng.choice([NAN, INF, -INF])
    with np.errstate(over="ignore"):
        faulty[:3] = golden[row[:3]]
    side = GoldenSide.of(golden, True).take(row)
    judged = classify(faulty, side, 1e-4, 1e-5, GRID, detector="nonfinite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "judge", lambda *question: None)
        in_numpy = classify(faulty, side, 1e-4, 1e-5, GRID, detector="nonfinite")
    for name, value in vars(in_numpy).items():
        np.testing.assert_array_equal(getattr(judged, name), value, err_msg=name)


def test_classify_asks_the_kernel(kernel, monkeypatch):
    """Otherwise everything would be right, and slow."""
    ones = np.ones((2, 3), np.float32)
    monkeypatch.setattr(outcome, "measured", None)
    side = GoldenSide.of(ones, True).take([1, 0])
    assert classify(ones, side, 0, 0, GRID).names().tolist() == ["identical", "identical"]


def test_without_the_library_numpy_judges(monkeypatch, tmp_path):
    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    ones = np.ones((2, 3), np.float32)
    assert native_judge.sets() == ()
    assert judge(ones, ones, None, np.zeros(2), 0.0, GRID) is None
    assert classify(ones, ones, 0, 0, GRID).names().tolist() == ["identical", "identical"]


def test_a_library_from_before_the_judge_is_no_trouble(monkeypatch, tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    old = [str(KERNELS / "cpu.cpp"), "-o", str(tmp_path / "testbed_cpu.so")]
    subprocess.run([compiler, "-std=c++17", "-shared", "-fPIC", *old], check=True)
    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    assert native_judge.sets() == ()
