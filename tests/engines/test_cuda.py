"""The CUDA kernels against the NumPy reference, bit for bit. Without a GPU they are emulated: the same source, compiled for
the host, its threads run in scrambled order (cuda_emulation/). ``-m gpu`` runs the same tests on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.errors import EngineError
from testbed.core.process import libraries
from testbed.engines import cuda, cuda_driver
from testbed.semantics import as_words, corrupt

from .conftest import FORMATS, PORT, Case, cases, masks, one_fault, words
from .cuda_emulation.host_driver import HostDriver


@pytest.fixture(
    scope="module",
    params=[
        "emulated",
        pytest.param("pycuda", marks=pytest.mark.gpu),
        pytest.param("cuda-python", marks=pytest.mark.gpu),
    ],
)
def binding(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "emulated":
            patch.setenv("TESTBED_NATIVE", str(request.getfixturevalue("emulated_cuda_build")))
            patch.setitem(cuda_driver.BINDINGS, "emulated", HostDriver)
        else:
            try:
                libraries.load(libraries.CUDA)
                with cuda.Device(binding=request.param):
                    pass
            except EngineError as error:
                pytest.skip(str(error))
        yield request.param


@pytest.fixture
def device(binding: str) -> Iterator[cuda.Device]:
    with cuda.Device(binding=binding) as device:
        yield device


def upload_case(device: cuda.Device, case: Case) -> tuple[cuda.Buffer, cuda.DeviceFaults]:
    faults = cuda.upload_faults(
        device, case.x.shape[1], case.index, case.and_mask, case.or_mask, case.xor_mask, case.site, PORT
    )
    return device.upload(case.x), faults


def check_port(device: cuda.Device, case: Case) -> None:
    values, faults = upload_case(device, case)
    current = cuda.inject_at_port_on_device(device, values, faults)
    expected_y, expected_current = case.expected()
    np.testing.assert_array_equal(as_words(device.download(values)), as_words(expected_y))
    np.testing.assert_array_equal(as_words(current), as_words(expected_current))


@pytest.mark.parametrize("format_name", FORMATS)
@settings(max_examples=100)
@given(data=st.data())
def test_a_port_is_bit_equal_to_the_reference(binding: str, format_name: str, data: st.DataObject) -> None:
    case = data.draw(cases(FORMATS[format_name]))
    with cuda.Device(binding=binding) as device:
        check_port(device, case)


@pytest.mark.parametrize("format_name", FORMATS)
@settings(max_examples=100)
@given(data=st.data())
def test_a_list_of_faults_is_bit_equal_to_the_reference(binding: str, format_name: str, data: st.DataObject) -> None:
    dtype = FORMATS[format_name]
    bits = data.draw(st.lists(words(dtype.itemsize), min_size=1, max_size=6))
    faults = data.draw(st.lists(st.tuples(st.integers(0, len(bits) - 1), masks(), masks(), masks()), max_size=12))
    before = np.array(bits, f"u{dtype.itemsize}").view(dtype)
    expected = before.copy()
    for index, *faulty in faults:  # one at a time, in order
        expected[index : index + 1] = corrupt(expected[index : index + 1], *faulty)
    with cuda.Device(binding=binding) as device:
        values = device.upload(before)
        cuda.apply_faults_on_device(device, values, *np.array(faults, np.int64).reshape(-1, 4).T)
        np.testing.assert_array_equal(as_words(device.download(values)), as_words(expected))


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(("rows", "slots"), [(1, 1000), (300, 1), (61, 40)])
def test_many_faults_in_one_launch(device: cuda.Device, format_name: str, rows: int, slots: int) -> None:
    """More than one block of threads, and elements that are struck dozens of times."""
    dtype, random = FORMATS[format_name], np.random.default_rng(rows)
    x = random.integers(0, 2 ** (8 * dtype.itemsize), (rows, 37), f"u{dtype.itemsize}", endpoint=False).view(dtype)
    site, index = random.integers(PORT, PORT + 2, (rows, slots)), random.integers(0, 37, (rows, slots))
    faulty = [random.integers(0, 2**32, (rows, slots), np.uint32) for _ in range(3)]
    check_port(device, Case(x, site, index, *faulty))


def test_faults_on_one_element_act_in_their_order(device: cuda.Device) -> None:
    """Set to 1.0, flip the sign, clear the sign, flip it: -1.0, in this order only."""
    one, sign, full = 0x3F800000, 1 << 31, 2**32 - 1
    values = device.upload(np.zeros((1, 3), np.float32))
    faults = cuda.upload_faults(
        device, 3, [[2, 2, 2, 2]], [[0, full, full ^ sign, full]], [[one, 0, 0, 0]], [[0, sign, 0, sign]]
    )
    np.testing.assert_array_equal(cuda.inject_at_port_on_device(device, values, faults), np.zeros((1, 4)))
    np.testing.assert_array_equal(device.download(values), [[0, 0, -1]])


@pytest.mark.parametrize("outside", [-1, 3, 2**40, -(2**63), 2**63 - 1])
def test_an_index_out_of_range_sets_the_flag_and_writes_nothing(device: cuda.Device, outside: int) -> None:
    case = one_fault(np.arange(6, dtype=np.float32).reshape(2, 3), index=1, xor=1 << 31)
    case.index[1, 0] = outside
    values, faults = upload_case(device, case)
    with pytest.raises(EngineError, match="1 of 2 faults name no element of a row of 3; these wrote nothing"):
        cuda.inject_at_port_on_device(device, values, faults)
    np.testing.assert_array_equal(device.download(values), [[0, -1, 2], [3, 4, 5]])

    flat = device.upload(np.arange(6, dtype=np.int8))
    with pytest.raises(EngineError, match="2 of 3 faults"):
        cuda.apply_faults_on_device(device, flat, [6, 5, -1], 0, 9, 0)
    np.testing.assert_array_equal(device.download(flat), [0, 1, 2, 3, 4, 9])


def test_an_index_out_of_range_for_another_port_is_not_ours(device: cuda.Device) -> None:
    case = one_fault(np.ones((2, 3), np.float32), index=-5, port=PORT + 1)
    check_port(device, case)


def test_the_flag_counts_over_launches(device: cuda.Device) -> None:
    case = one_fault(np.zeros((2, 3), np.float32), index=3)
    values, faults = upload_case(device, case)
    refused = device.upload(np.zeros(1, np.int32))
    for _ in range(3):
        cuda.launch(values, faults, refused=refused)
    device.synchronize()
    assert device.download(refused)[0] == 6


def test_nothing_to_inject(device: cuda.Device) -> None:
    values = device.upload(np.ones((2, 3), np.float32))
    none = np.zeros((2, 0), np.int64)
    assert cuda.inject_at_port_on_device(device, values, cuda.upload_faults(device, 3, none, 0, 0, 0)).shape == (2, 0)
    cuda.apply_faults_on_device(device, values, [], 0, 0, 0)
    np.testing.assert_array_equal(device.download(values), np.ones((2, 3)))
    empty = device.upload(np.zeros((0, 4), np.float16))
    assert device.download(empty).shape == (0, 4)


def test_a_copy_leaves_its_source_alone(device: cuda.Device) -> None:
    source = device.upload(np.arange(5, dtype=np.float16))
    target = device.empty((5,), np.float16)
    cuda.copy(target, source)
    cuda.apply_faults_on_device(device, target, [0], 0, 0x3C00, 0)
    np.testing.assert_array_equal(device.download(target), [1, 1, 2, 3, 4])
    np.testing.assert_array_equal(device.download(source), [0, 1, 2, 3, 4])


def test_faults_may_come_from_host_memory(device: cuda.Device) -> None:
    """As the ONNX Runtime op has them; the arrays may be freed as soon as the call is back."""
    library, _ = libraries.load(libraries.CUDA)
    case = one_fault(np.arange(600, dtype=np.float32).reshape(200, 3), index=2, xor=1 << 31)
    values = device.upload(case.x)
    current = device.empty(case.site.shape, case.x.dtype)
    arrays: list[np.ndarray] = [case.site, case.index, case.and_mask, case.or_mask, case.xor_mask]
    freed = [array.copy() for array in arrays]
    record = cuda.FaultsStruct(200, 1, 3, PORT, *(array.ctypes.data for array in freed))
    pointers = [ctypes.c_void_p(pointer) for pointer in (values.pointer, current.pointer)]
    status = library.testbed_cuda_inject_from_host(pointers[0], 4, ctypes.byref(record), pointers[1], None, None)
    for array in freed:
        array.fill(-1 if array.dtype == np.int64 else 0)
    assert status == 0
    device.synchronize()
    expected_y, expected_current = case.expected()
    np.testing.assert_array_equal(device.download(values), expected_y)
    np.testing.assert_array_equal(device.download(current), expected_current)


def test_a_wrong_request_is_refused(device: cuda.Device) -> None:
    values = device.upload(np.zeros((2, 3), np.float32))
    faults = cuda.upload_faults(device, 3, [[0], [0]], 0, 0, 0)
    with pytest.raises(EngineError, match="not on float64"):
        cuda.launch(device.upload(np.zeros((2, 3))), faults)
    with pytest.raises(EngineError, match="2 rows of 3 elements do not fit"):
        cuda.launch(device.upload(np.zeros((2, 4), np.float32)), faults)
    with pytest.raises(EngineError, match="do not fit"):
        cuda.launch(values, faults, current=device.empty((2, 2), np.float32))
    with pytest.raises(EngineError, match="must be integers"):
        cuda.upload_faults(device, 3, [[0.5]], 0, 0, 0)
    with pytest.raises(EngineError, match=r"must be \(rows, slots\)"):
        cuda.upload_faults(device, 3, [0], 0, 0, 0)
    with pytest.raises(EngineError, match="sites of shape"):
        cuda.upload_faults(device, 3, [[0]], 0, 0, 0, site=[[0, 0]])
    with pytest.raises(EngineError, match="do not fit"):
        cuda.upload_faults(device, 3, [[0]], [[0, 1]], 0, 0)
    with pytest.raises(EngineError, match="cannot copy 12 bytes into a buffer of 24"):
        cuda.copy(values, device.empty((3,), np.float32))


def test_the_kernels_themselves_refuse_what_they_cannot_do(device: cuda.Device) -> None:
    """Callers other than cuda.py rely on it."""
    values = device.upload(np.zeros((2, 3), np.float32))
    faults = cuda.upload_faults(device, 3, [[0], [0]], 0, 2**32 - 1, 0)
    inject = cuda.load_kernels().testbed_cuda_inject
    assert inject(values.pointer, 8, faults.record, None, None, None) == -1
    assert inject(values.pointer, 0, faults.record, None, None, None) == -1
    for name, size in (("rows", -1), ("slots", -1), ("elements", -1), ("rows", 2**62), ("slots", 2**62)):
        record = cuda.FaultsStruct.from_buffer_copy(faults.record)
        setattr(record, name, size)
        assert inject(values.pointer, 4, record, None, None, None) == -2
    assert not device.download(values).any()


def test_without_the_library_the_reason_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    usable, reason = cuda.available()
    assert not usable
    assert "testbed_cuda was not built" in reason
    assert "nvcc" in reason


def test_without_a_binding_the_reason_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, emulated_cuda_build: Path
) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(emulated_cuda_build))

    def missing(number: int) -> Any:
        raise ModuleNotFoundError("No module named 'cuda'")

    monkeypatch.setattr(cuda_driver, "BINDINGS", {"pycuda": missing, "cuda-python": missing})
    usable, reason = cuda.available()
    assert not usable
    assert "pip install cuda-bindings" in reason


@pytest.mark.parametrize("error", [OSError("libcuda.so.1: not found"), RuntimeError("two\nlines")])
def test_a_binding_that_finds_no_driver_is_a_reason_not_a_crash(
    error: Exception, monkeypatch: pytest.MonkeyPatch, emulated_cuda_build: Path
) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(emulated_cuda_build))

    def broken(number: int) -> Any:
        raise error

    monkeypatch.setattr(cuda_driver, "BINDINGS", {"cuda-python": broken})
    usable, reason = cuda.available()
    assert not usable
    assert "cuda-python finds no usable GPU" in reason
    assert "\n" not in reason


def test_the_first_binding_that_is_installed_is_taken(
    monkeypatch: pytest.MonkeyPatch, emulated_cuda_build: Path
) -> None:
    monkeypatch.setenv("TESTBED_NATIVE", str(emulated_cuda_build))

    def missing(number: int) -> Any:
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda_driver, "BINDINGS", {"pycuda": missing, "cuda-python": HostDriver})
    usable, reason = cuda.available()
    assert usable
    assert "testbed_cuda.so, through emulated" in reason
