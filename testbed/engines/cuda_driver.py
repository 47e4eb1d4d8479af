"""The CUDA driver through whichever Python binding is installed: a GPU's primary context, memory, copies.

Imported only where asked for, and never with ``pycuda.autoinit``, which would make a context of its own.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from typing import Any, Protocol

from testbed.core.arrays import UInt8s
from testbed.core.errors import EngineError, first_line


class Driver(Protocol):
    """An open device, whose primary context is current in this thread until ``close``. Raises EngineError."""

    name: str

    def allocate(self, nbytes: int) -> int: ...

    def free(self, pointer: int) -> None: ...

    def to_device(self, pointer: int, source: UInt8s) -> None: ...

    def to_host(self, target: UInt8s, pointer: int) -> None: ...

    def synchronize(self) -> None: ...

    def close(self) -> None: ...


def open_driver(number: int = 0, binding: str | None = None) -> Driver:
    """``binding``: "pycuda" or "cuda-python"; None takes the first that is installed."""
    reasons = []
    for name, opened in BINDINGS.items():
        if binding in (None, name):
            try:
                return opened(number)
            except ImportError as error:
                reasons.append(f"{name}: {first_line(error)}")
            except (OSError, RuntimeError) as error:
                raise EngineError(f"{name} finds no usable GPU: {first_line(error)}") from error
    install = "pycuda" if binding == "pycuda" else "cuda-bindings"
    raise EngineError(f"no Python binding of CUDA works ({'; '.join(reasons)}); pip install {install}")


class _PyCuda:
    name = "pycuda"

    def __init__(self, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it cannot load is also an ImportError
            import pycuda.driver as cuda

        self._cuda = cuda
        self._memory: dict[int, Any] = {}
        self._ask(cuda.init)
        context = self._ask(_retained, (self.name, number), lambda: cuda.Device(number).retain_primary_context())
        self._ask(context.push)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._cuda.Error as error:
            raise EngineError(f"CUDA, through PyCUDA: {first_line(error)}") from error

    def allocate(self, nbytes: int) -> int:
        memory = self._ask(self._cuda.mem_alloc, nbytes)
        self._memory[int(memory)] = memory  # it would be freed with the object
        return int(memory)

    def free(self, pointer: int) -> None:
        self._ask(self._memory.pop(pointer).free)

    def to_device(self, pointer: int, source: UInt8s) -> None:
        self._ask(self._cuda.memcpy_htod, pointer, source)

    def to_host(self, target: UInt8s, pointer: int) -> None:
        self._ask(self._cuda.memcpy_dtoh, target, pointer)

    def synchronize(self) -> None:
        self._ask(self._cuda.Context.synchronize)

    def close(self) -> None:
        self._ask(self._cuda.Context.pop)


class _CudaPython:
    name = "cuda-python"

    def __init__(self, number: int) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self._ask(driver.cuInit, 0)
        device = self._ask(driver.cuDeviceGet, number)
        context = _retained((self.name, number), lambda: self._ask(driver.cuDevicePrimaryCtxRetain, device))
        self._ask(driver.cuCtxPushCurrent, context)

    def _ask(self, call: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        """Every call returns its status and, if it has one, its result."""
        status, *result = call(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise EngineError(f"CUDA, through cuda-python: {status.name}")
        return result[0] if result else None

    def allocate(self, nbytes: int) -> int:
        return int(self._ask(self._driver.cuMemAlloc, nbytes))

    def free(self, pointer: int) -> None:
        self._ask(self._driver.cuMemFree, pointer)

    def to_device(self, pointer: int, source: UInt8s) -> None:
        self._ask(self._driver.cuMemcpyHtoD, pointer, source.ctypes.data, source.nbytes)

    def to_host(self, target: UInt8s, pointer: int) -> None:
        self._ask(self._driver.cuMemcpyDtoH, target.ctypes.data, pointer, target.nbytes)

    def synchronize(self) -> None:
        self._ask(self._driver.cuCtxSynchronize)

    def close(self) -> None:
        self._ask(self._driver.cuCtxPopCurrent)


BINDINGS: dict[str, Callable[[int], Driver]] = {"pycuda": _PyCuda, "cuda-python": _CudaPython}


_contexts: dict[tuple[str, int], Any] = {}


def _retained(key: tuple[str, int], retain: Callable[[], Any]) -> Any:
    """A primary context, retained once and for the rest of the process, as the CUDA runtime does too: the kernels' library
    keeps state in it. The object is kept from being finalised: PyCUDA would detach the context as if it were its own."""
    if key not in _contexts:
        _contexts[key] = retain()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_contexts[key]))
    return _contexts[key]
