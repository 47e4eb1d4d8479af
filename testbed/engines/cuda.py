"""Faults into device memory, from Python: the CUDA kernels (``kernels/cuda.cu``) through their C ABI, on a GPU's primary
context, which PyTorch, ONNX Runtime and TensorRT use too. Context and memory come from PyCUDA, else from cuda-python."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from testbed.core.errors import EngineError
from testbed.core.process import libraries
from testbed.engines.cuda_driver import Driver, open_driver
from testbed.engines.native import check_width, fault_indices, mask_words


def available() -> tuple[bool, str]:
    """Whether faults can be applied on a GPU here, and with what, or why not and what to do."""
    try:
        _, path = libraries.load(libraries.CUDA)
        with Device() as device:
            return True, f"{path}, through {device.driver.name}"
    except EngineError as error:
        return False, str(error)


@dataclass(frozen=True)
class Buffer:
    """An array in device memory, C-contiguous. The memory is its maker's: see ``Device``."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class FaultsStruct(ctypes.Structure):
    """The C struct testbed::Faults of kernels/port.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "slots", "elements", "port")),
        *((name, ctypes.c_void_p) for name in ("site", "index", "and_masks", "or_masks", "xor_masks")),
    ]


@dataclass(frozen=True)
class DeviceFaults:
    """A fault list in device memory, (rows, slots)."""

    record: FaultsStruct
    arrays: tuple[Buffer, ...] = field(repr=False)


class Device:
    """One GPU: its primary context is current in this thread for the length of a ``with`` block, which also frees what
    was allocated through it. Raises EngineError where there is no such GPU, driver or binding."""

    def __init__(self, number: int = 0, binding: str | None = None) -> None:
        self._number, self._binding = number, binding
        self._allocated: list[int] = []

    def __enter__(self) -> Self:
        self.driver: Driver = open_driver(self._number, self._binding)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._free_down_to(0)
        finally:
            self.driver.close()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is allocated in the block is freed at its end: its buffers are no more."""
        before = len(self._allocated)
        try:
            yield
        finally:
            self._free_down_to(before)

    def _free_down_to(self, count: int) -> None:
        while len(self._allocated) > count:
            self.driver.free(self._allocated.pop())

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Buffer:
        """Memory as it is, not cleared."""
        buffer = Buffer(0, shape, np.dtype(dtype))
        pointer = self.driver.allocate(max(buffer.nbytes, 1))
        self._allocated.append(pointer)
        return Buffer(pointer, shape, buffer.dtype)

    def upload(self, array: NDArray) -> Buffer:
        buffer = self.empty(array.shape, array.dtype)
        if buffer.nbytes:
            self.driver.to_device(buffer.pointer, _bytes(np.ascontiguousarray(array)))
        return buffer

    def download(self, buffer: Buffer) -> NDArray:
        """Waits for the default stream first."""
        array = np.empty(buffer.shape, buffer.dtype)
        if buffer.nbytes:
            self.driver.to_host(_bytes(array), buffer.pointer)
        return array

    def synchronize(self) -> None:
        """Waits for the device. Raises EngineError for what failed on it since the last time."""
        self.driver.synchronize()


def upload_faults(
    device: Device,
    elements: int,
    index: ArrayLike,
    and_mask: ArrayLike,
    or_mask: ArrayLike,
    xor_mask: ArrayLike,
    site: ArrayLike | None = None,
    port: int = 0,
) -> DeviceFaults:
    """Faults for a tensor of ``elements`` elements per row. index: (rows, slots), flat within the row; an index out of
    range is for the kernel to refuse. Masks: scalars or (rows, slots). site: (rows, slots); a fault strikes only the port
    of that number. None: every fault strikes. Raises EngineError for shapes and types that do not fit."""
    places = fault_indices(index)
    if places.ndim != 2:
        raise EngineError(f"fault indices must be (rows, slots), not {places.shape}")
    words = [mask_words(mask, places.shape) for mask in (and_mask, or_mask, xor_mask)]
    arrays = [device.upload(places), *map(device.upload, words)]
    if site is not None:
        sites = fault_indices(site)
        if sites.shape != places.shape:
            raise EngineError(f"fault sites of shape {sites.shape} do not fit indices of shape {places.shape}")
        arrays.insert(0, device.upload(sites))
    pointers = [buffer.pointer for buffer in arrays]
    record = FaultsStruct(*places.shape, elements, port, *([None] if site is None else []), *pointers)
    return DeviceFaults(record, tuple(arrays))


def launch(
    values: Buffer,
    faults: DeviceFaults,
    current: Buffer | None = None,
    refused: Buffer | None = None,
    stream: int = 0,
) -> None:
    """Applies the faults to ``values`` in place, on ``stream`` (a CUstream as a number), without waiting.

    values: (rows, ...), 8-, 16- or 32-bit. current: (rows, slots) of the values' type; gets what each fault of this port
    found before any of them struck, and 0 for faults of other ports. refused: one int32, to which the number of faults
    with an index out of range is added; those write nothing. Raises EngineError where the kernel cannot be launched.
    """
    check_width(values.dtype)
    rows, elements = faults.record.rows, faults.record.elements
    if values.size != rows * elements or (current and current.size != rows * faults.record.slots):
        raise EngineError(f"faults for {rows} rows of {elements} elements do not fit a buffer of {values.shape}")
    status = load_kernels().testbed_cuda_inject(
        values.pointer,
        values.dtype.itemsize,
        ctypes.byref(faults.record),
        current.pointer if current else None,
        refused.pointer if refused else None,
        stream or None,
    )
    _succeed(status)


def copy(to: Buffer, source: Buffer, stream: int = 0) -> None:
    """Device to device, without waiting."""
    if to.nbytes != source.nbytes:
        raise EngineError(f"cannot copy {source.nbytes} bytes into a buffer of {to.nbytes}")
    _succeed(load_kernels().testbed_cuda_copy(to.pointer, source.pointer, source.nbytes, stream or None))


def apply_faults_on_device(
    device: Device, values: Buffer, indices: ArrayLike, and_masks: ArrayLike, or_masks: ArrayLike, xor_masks: ArrayLike
) -> None:
    """``native.apply_faults`` for device memory: flat indices into the whole buffer, all faults, in their order.

    Raises EngineError when an index is out of range; that fault wrote nothing, the others were applied.
    """
    places = fault_indices(indices)
    words = [mask_words(mask, places.shape)[None] for mask in (and_masks, or_masks, xor_masks)]
    faults = upload_faults(device, values.size, places[None], words[0], words[1], words[2])
    _launch_checked(device, Buffer(values.pointer, (1, values.size), values.dtype), faults, None)


def inject_at_port_on_device(device: Device, values: Buffer, faults: DeviceFaults) -> NDArray:
    """One fault port on a batch; returns ``current``, (rows, slots): see ``launch``. Raises as above."""
    current = device.empty((faults.record.rows, faults.record.slots), values.dtype)
    _launch_checked(device, values, faults, current)
    return device.download(current)


def _launch_checked(device: Device, values: Buffer, faults: DeviceFaults, current: Buffer | None) -> None:
    refused = device.upload(np.zeros(1, np.int32))
    launch(values, faults, current, refused)
    device.synchronize()
    if count := int(device.download(refused)[0]):
        raise EngineError(
            f"{count} of {faults.record.rows * faults.record.slots} faults name no element of a row of "
            f"{faults.record.elements}; these wrote nothing"
        )


def load_kernels() -> Any:
    """Load the library of kernels, with the types of its arguments declared."""
    library, _ = libraries.load(libraries.CUDA)
    pointer, number, status = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    library.testbed_cuda_status_text.argtypes = [status]
    library.testbed_cuda_status_text.restype = ctypes.c_char_p
    library.testbed_cuda_inject.argtypes = [pointer, status, ctypes.POINTER(FaultsStruct), pointer, pointer, pointer]
    library.testbed_cuda_copy.argtypes = [pointer, pointer, number, pointer]
    return library


def _succeed(status: int) -> None:
    if status:
        raise EngineError(f"CUDA refused: {load_kernels().testbed_cuda_status_text(status).decode()}")


def _bytes(array: NDArray) -> NDArray[np.uint8]:
    """The array's memory: the bindings do not know every element type."""
    return array.reshape(-1).view(np.uint8)
