"""The TensorRT plugin against the NumPy reference, driven as TensorRT would, on the host with emulated kernels.

Needs TensorRT's headers and nothing else of it: ``TENSORRT_INCLUDE_DIR=DIR pytest tests/engines/tensorrt/test_plugin.py``.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.semantics import as_words
from tests.engines.conftest import EMULATION, FORMATS, KERNELS, PORT, Case, cases, compiled, one_fault

TYPES = {"fp32": 0, "fp16": 1, "int8": 2, "int32": 3, "bf16": 7}  # nvinfer1::DataType
UINT8 = 5
SHAPES_REFUSED = 8

Drive = Callable[..., tuple[int, NDArray, NDArray, int]]


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    headers = os.environ.get("TENSORRT_INCLUDE_DIR")
    if not headers:
        pytest.skip("TENSORRT_INCLUDE_DIR does not name the folder of TensorRT's headers")
    folder: Path = tmp_path_factory.mktemp("tensorrt")
    includes = ["-I", str(EMULATION), "-I", str(KERNELS), "-isystem", headers]
    both = folder / "both.cpp"  # the driver, which includes the plugin, and the kernels that it calls
    both.write_text('#include "cuda.cu"\n#include "tensorrt_driver.cpp"\n')
    compiled(both, folder / "driver.so", "-Wno-sign-conversion", *includes)
    library = ctypes.CDLL(str(folder / "driver.so"))

    def run(
        case: Case, type_code: int, port: int = PORT, mask_slots: int | None = None
    ) -> tuple[int, NDArray, NDArray, int]:
        rows, slots = case.site.shape
        y, current = np.empty_like(case.x), np.empty((rows, slots), case.x.dtype)
        refused = np.full(1, 99, np.int32)
        inputs = [case.x, case.site, case.index, case.and_mask, case.or_mask, case.xor_mask]
        step = library.drive(
            type_code,
            case.x.ndim,
            (ctypes.c_int64 * case.x.ndim)(*case.x.shape),
            ctypes.c_int64(slots),
            ctypes.c_int64(slots if mask_slots is None else mask_slots),
            port,
            (ctypes.c_void_p * 6)(*(array.ctypes.data for array in inputs)),
            (ctypes.c_void_p * 3)(*(array.ctypes.data for array in (y, current, refused))),
        )
        return step, y, current, int(refused[0])

    return run


@pytest.mark.parametrize("format_name", TYPES)
@settings(max_examples=100)
@given(data=st.data())
def test_bit_equal_to_the_reference(drive: Drive, format_name: str, data: st.DataObject) -> None:
    case = data.draw(cases(FORMATS[format_name]))
    before = case.x.copy()
    step, y, current, refused = drive(case, TYPES[format_name])
    expected_y, expected_current = case.expected()
    assert (step, refused) == (0, 0)
    np.testing.assert_array_equal(as_words(y), as_words(expected_y))
    np.testing.assert_array_equal(as_words(current), as_words(expected_current))
    np.testing.assert_array_equal(as_words(case.x), as_words(before))


def test_an_index_out_of_range_is_counted_and_writes_nothing(drive: Drive) -> None:
    case = one_fault(np.arange(12, dtype=np.float32).reshape(2, 2, 3), index=5, xor=1 << 31)
    case.index[1, 0] = 6
    step, y, current, refused = drive(case, TYPES["fp32"])
    assert (step, refused) == (0, 1)
    np.testing.assert_array_equal(y.reshape(-1), [0, 1, 2, 3, 4, -5, 6, 7, 8, 9, 10, 11])
    np.testing.assert_array_equal(current, [[5], [0]])


def test_what_does_not_fit_is_refused_before_it_runs(drive: Drive) -> None:
    case = one_fault(np.zeros((2, 3), np.float32))
    assert drive(case, TYPES["fp32"], mask_slots=2)[0] == SHAPES_REFUSED
    assert drive(case, UINT8)[0] != 0  # TensorRT's plugins do not take uint8
