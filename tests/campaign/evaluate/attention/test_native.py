"""Incremental outputs by the compiled kernel: NumPy's bits, and the arrays that it must not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.campaign.evaluate.attention.changes import Changes
from testbed.campaign.evaluate.attention.native import add_changes
from testbed.core.process import libraries
from tests.support.compiled_cpu import compiled_cpu


@pytest.fixture(scope="module", params=["installed", "-O0", "-O3", "-O3 -mfma"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "installed":
            if "-mfma" in request.param and " fma" not in Path("/proc/cpuinfo").read_text():
                pytest.skip("this processor has no fused multiply-add")
            folder = compiled_cpu(tmp_path_factory.mktemp("changes"), *request.param.split())
            patch.setenv("TESTBED_NATIVE", str(folder))
            assert libraries.load(libraries.CPU)[1].parent == folder
        elif not installed():
            pytest.skip("the library was not built, or without this kernel")
        yield


def installed() -> bool:
    none = np.zeros((0, 1), np.float32)
    return add_changes(np.zeros((1, 1, 1), np.float32), np.zeros(0, np.int64), none, none) is not None


@st.composite
def changes(draw):
    """(golden, golden_row, down, across, drawn_from): any bits, mostly numbers of ordinary size."""
    m, goldens, tokens, width = (draw(st.integers(low, high)) for low, high in ((0, 3), (1, 3), (1, 4), (1, 21)))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def some(*shape):
        array = numbers.standard_normal(shape).astype(np.float32)
        wild = numbers.integers(0, 2**32, shape, np.uint32).view(np.float32)
        return np.where(numbers.random(shape) < draw(st.sampled_from([0.0, 0.1])), wild, array)

    rows = numbers.integers(0, goldens, m)
    drawn = [some(tokens, width) for _ in range(m)] if draw(st.booleans()) else None
    return some(goldens, tokens, width), rows, some(m, tokens), some(m, width), drawn


@given(changes())
def test_bits_are_those_of_numpy(kernel: None, given_: tuple) -> None:
    golden, rows, down, across, drawn = given_
    found = add_changes(golden, rows, down, across, drawn)
    with np.errstate(all="ignore"):
        spread = across[:, None, :]
        if drawn is not None:
            spread = spread - np.array(drawn, np.float32).reshape(golden[rows].shape)
        wanted = golden[rows] + down[:, :, None] * spread
    assert found is not None
    assert found.dtype == np.float32
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), ~numbers)  # which NaN it is, no standard says
    np.testing.assert_array_equal(found[numbers].view(np.uint32), wanted[numbers].view(np.uint32))


def test_what_does_not_fit_is_refused(kernel: None) -> None:
    golden, down, across = np.zeros((2, 3, 4), np.float32), np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)
    for row in (-1, 2):
        with pytest.raises(ValueError, match="there are 2 golden outputs"):
            add_changes(golden, np.array([row]), down, across)
    with pytest.raises(ValueError, match="do not fit 1 outputs of 3 x 4"):
        add_changes(golden, np.array([0]), down[:, :2], across)
    with pytest.raises(ValueError, match="there must be 1 arrays of 3 x 4"):
        add_changes(golden, np.array([0]), down, across, [golden[0, :2]])


def test_what_it_cannot_do_is_left_to_numpy(kernel: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    golden, down, across = np.zeros((1, 3, 4), np.float32), np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)
    assert add_changes(golden.astype(np.float64), np.array([0]), down, across) is None
    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    assert add_changes(golden, np.array([0]), down, across) is None


@given(changes())
def test_without_the_kernel_outputs_are_the_same(
    kernel: None, tmp_path_factory: pytest.TempPathFactory, given_: tuple
) -> None:
    golden, rows, down, across, drawn = given_
    found = Changes()
    found.down, found.across, found.drawn_from = down, across, drawn
    injections = np.arange(len(rows))[::-1]
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        compiled = found.outputs(injections, rows[injections], golden)
        patch.setenv("TESTBED_NATIVE", str(tmp_path_factory.getbasetemp()))
        plain = found.outputs(injections, rows[injections], golden)
    np.testing.assert_array_equal(compiled, plain)
    numbers = ~np.isnan(plain)
    np.testing.assert_array_equal(np.signbit(compiled[numbers]), np.signbit(plain[numbers]))
