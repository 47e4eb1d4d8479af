"""GPUs that the CUDA driver offers, asked of the driver itself: no toolkit is needed."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

CUDA_SUCCESS = 0


@cache
def cuda_devices() -> tuple[list[str], str]:
    """Names of the GPUs that the CUDA driver offers; without any, also the reason, as the driver gives it."""
    file = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(file)
    except OSError:
        return [], f"the NVIDIA driver is not installed ({file} does not load)"
    status = driver.cuInit(0)
    if status != CUDA_SUCCESS:
        return [], f"the NVIDIA driver finds no usable GPU (cuInit: {_cuda_error(driver, status)})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != CUDA_SUCCESS or not count.value:
        return [], "the NVIDIA driver lists no GPU"
    return [_cuda_device_name(driver, number) for number in range(count.value)], ""


def _cuda_error(driver: ctypes.CDLL, status: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {status}"


def _cuda_device_name(driver: ctypes.CDLL, number: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace") or f"GPU {number}"
