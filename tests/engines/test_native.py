"""The native kernel against the NumPy reference, bit for bit: the installed library, and one compiled here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.errors import EngineError
from testbed.core.process import libraries
from testbed.engines import native
from testbed.semantics import as_words, corrupt

from .conftest import FORMATS, masks, words


@pytest.fixture(scope="module", params=["installed", "compiled"])
def kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test that uses it runs with the library as installed, and with one built from the sources as they are."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "compiled":
            patch.setenv("TESTBED_NATIVE", str(request.getfixturevalue("native_build")))
        usable, reason = native.available()
        if request.param == "installed" and not usable:
            pytest.skip(reason)
        assert usable, reason
        yield


@st.composite
def buffers_and_faults(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """A buffer of any supported dtype, and faults that strike some of its elements more than once."""
    dtype = draw(st.sampled_from(list(FORMATS.values())))
    bits = draw(st.lists(words(dtype.itemsize), min_size=1, max_size=6))
    mask = masks()
    faults = st.lists(st.tuples(st.integers(0, len(bits) - 1), mask, mask, mask), max_size=12)
    return np.array(bits, f"u{dtype.itemsize}").view(dtype), draw(faults)


@settings(max_examples=300)
@given(case=buffers_and_faults())
def test_bit_equal_to_the_reference(kernel: None, case: tuple[np.ndarray, list[tuple[int, int, int, int]]]) -> None:
    buffer, faults = case
    expected = buffer.copy()
    for index, *faulty in faults:  # one at a time, in order: later faults see what earlier ones did
        expected[index : index + 1] = corrupt(expected[index : index + 1], *faulty)

    columns = np.array(faults, np.int64).reshape(-1, 4).T
    native.apply_faults(buffer, *columns)

    np.testing.assert_array_equal(as_words(buffer), as_words(expected))


def test_flat_indices_are_of_any_shape(kernel: None) -> None:
    buffer = np.zeros((2, 3, 4), np.float32)
    native.apply_faults(buffer, [23, 5], 0xFFFFFFFF, 0, [1 << 31, 1 << 30])
    words = as_words(buffer)
    assert words[1, 2, 3] == 1 << 31
    assert words[0, 1, 1] == 1 << 30
    assert np.count_nonzero(words) == 2


@pytest.mark.parametrize("outside", [-1, 4, 2**40, -(2**63), 2**63 - 1])
def test_an_index_out_of_range_writes_nothing(kernel: None, outside: int) -> None:
    buffer = np.arange(4, dtype=np.float32)
    with pytest.raises(EngineError, match=f"no element {outside} in a buffer of 4"):
        native.apply_faults(buffer, [0, outside, 1], 0, 0, 7)
    np.testing.assert_array_equal(buffer, np.arange(4, dtype=np.float32))


@pytest.mark.parametrize("outside", [-1, 4, 2**40, -(2**63), 2**63 - 1])
def test_the_kernel_itself_checks_bounds(kernel: None, outside: int) -> None:
    """Callers other than apply_faults rely on it: the valid fault before the bad one must not be applied either."""
    library, _ = libraries.load(libraries.CPU)
    guarded = np.arange(6, dtype=np.float32)  # elements 0 and 5 are not part of the buffer
    before = guarded.copy()
    indices, masks = np.array([0, outside], np.int64), np.zeros(2, np.uint32)
    pointers = [a.ctypes.data for a in (indices, masks, masks, masks)]
    assert library.testbed_apply_faults(guarded[1:5].ctypes.data, 4, 4, 2, *pointers) != 0
    np.testing.assert_array_equal(guarded, before)


@pytest.mark.parametrize(
    ("buffer", "indices", "masks", "message"),
    [
        (np.zeros(4, np.float64), [0], 0, "not on float64"),
        (np.zeros(8, np.float32)[::2], [0], 0, "C-contiguous"),
        (np.zeros(4, np.float32), [0.5], 0, "must be integers"),
        (np.zeros(4, np.float32), [0, 1], [1, 2, 3], "do not fit 2 fault indices"),
    ],
)
def test_a_wrong_request_is_refused(kernel: None, buffer: np.ndarray, indices: list, masks: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        native.apply_faults(buffer, indices, masks, masks, masks)
    assert not buffer.any()


def test_a_read_only_buffer_is_refused(kernel: None) -> None:
    buffer = np.zeros(4, np.float32)
    buffer.flags.writeable = False
    with pytest.raises(EngineError, match="writeable"):
        native.apply_faults(buffer, [0], 0, 1, 0)


def test_without_the_library_the_reason_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    for usable, reason in (native.available(), native.op_available()):
        assert not usable
        assert str(tmp_path) in reason
        assert "compiler" in reason
    assert native.op_library() is None
    assert not native.op_runs_on_cuda()
    with pytest.raises(EngineError, match="not built"):
        native.apply_faults(np.zeros(1, np.float32), [0], 0, 0, 0)


@pytest.mark.parametrize("content", [b"\x7fELF, but cut short", b"", b"not a library"])
def test_a_file_that_is_no_library_is_named(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    for name, asked in ((libraries.CPU, native.available), (libraries.ONNXRUNTIME, native.op_available)):
        (tmp_path / f"{name}.so").write_bytes(content)
        usable, reason = asked()
        assert not usable
        assert f"{name}.so is not a native library of testbed" in reason
        assert "\n" not in reason


def test_a_library_of_another_abi_is_refused(
    monkeypatch: pytest.MonkeyPatch, native_build: Path, tmp_path: Path
) -> None:
    another = tmp_path / "another"  # paths of its own: what was loaded from the first ones is remembered
    shutil.copytree(native_build, another)
    monkeypatch.setenv("TESTBED_NATIVE", str(another))
    monkeypatch.setattr(libraries, "ABI_VERSION", 99)
    for usable, reason in (native.available(), native.op_available()):
        assert not usable
        assert "ABI version 1, not 99" in reason
    assert native.op_library() is None
