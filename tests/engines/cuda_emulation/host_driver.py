"""Host memory in place of a GPU's, with guards around each allocation: what testbed.engines.cuda_driver is given where
the kernels are compiled for the host."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

GUARD = 64  # bytes before and after each allocation that nothing may write
UNTOUCHED = 0xA5


class HostDriver:
    name = "emulated"

    def __init__(self, number: int = 0) -> None:
        self._memory: dict[int, Any] = {}

    def allocate(self, nbytes: int) -> int:
        size = nbytes + 2 * GUARD
        memory = (ctypes.c_uint8 * size)()
        ctypes.memset(memory, UNTOUCHED, size)
        pointer = ctypes.addressof(memory) + GUARD
        self._memory[pointer] = memory
        return pointer

    def free(self, pointer: int) -> None:
        memory = self._memory.pop(pointer)
        guards = bytes(memory[:GUARD]) + bytes(memory[-GUARD:])
        assert guards == bytes([UNTOUCHED]) * (2 * GUARD), "something wrote outside its buffer"

    def to_device(self, pointer: int, source: NDArray[np.uint8]) -> None:
        ctypes.memmove(pointer, source.ctypes.data, source.nbytes)

    def to_host(self, target: NDArray[np.uint8], pointer: int) -> None:
        ctypes.memmove(target.ctypes.data, pointer, target.nbytes)

    def synchronize(self) -> None: ...

    def close(self) -> None:
        assert not self._memory, "device memory was not freed"
