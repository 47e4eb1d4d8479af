"""Where the native libraries lie (``kernels/``, built by CMake), and loading one safely. None of them has to be there."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from testbed.core.errors import EngineError

ABI_VERSION = 1  # kernels/abi.h
CPU, ONNXRUNTIME, CUDA, TENSORRT = "testbed_cpu", "testbed_onnxruntime", "testbed_cuda", "testbed_tensorrt"
_NEEDED = {
    CPU: "a C++ compiler on PATH",
    ONNXRUNTIME: "a C++ compiler on PATH",
    CUDA: "nvcc on PATH (TESTBED_CUDA=ON says what fails)",
    TENSORRT: "nvcc on PATH and TENSORRT_INCLUDE_DIR naming the folder of TensorRT's headers",
}
_SUFFIX = {"win32": ".dll"}.get(sys.platform, ".so")  # CMake modules end in .so on macOS too


def load(name: str) -> tuple[ctypes.CDLL, Path]:
    """The library and its file. Raises EngineError when it was not built, is damaged, or is of another ABI."""
    return _load(name, ABI_VERSION, *_candidates(name))


def optional(name: str, declare: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL | None:
    """The library, its functions declared; None where it is not there, or was built before it had them all. Asked for
    every batch of rows, so what was found is kept. declare: sets their types; the same function each time."""
    return _optional(name, declare, os.environ.get("TESTBED_NATIVE"))


@cache
def _optional(name: str, declare: Callable[[ctypes.CDLL], None], _folder: str | None) -> ctypes.CDLL | None:
    try:
        library, _ = load(name)
        declare(library)
    except (EngineError, AttributeError):
        return None
    return library


def built() -> list[Path]:
    """Files of the native libraries that are there, whether they load or not."""
    files = (next((path for path in _candidates(name) if path.is_file()), None) for name in _NEEDED)
    return [file for file in files if file is not None]


def needed_for(name: str) -> str:
    """What the machine must have for the library to be built."""
    return _NEEDED[name]


def _candidates(name: str) -> list[Path]:
    """Where a library may lie: in TESTBED_NATIVE, a folder; else in the package; else in a checkout's build folder."""
    file = name + _SUFFIX
    if folder := os.environ.get("TESTBED_NATIVE"):
        return [Path(folder) / file]
    package = find_spec("testbed")
    # An editable install has two folders: the sources, and where CMake installed.
    packages = [Path(folder) for folder in (package and package.submodule_search_locations) or ()]
    return [p / "_native" / file for p in packages] + [p.parent / "build" / file for p in packages]


@cache
def _load(name: str, abi_version: int, *candidates: Path) -> tuple[ctypes.CDLL, Path]:
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        where = f" at {candidates[0]} (TESTBED_NATIVE)" if os.environ.get("TESTBED_NATIVE") else ""
        raise EngineError(f"{name} was not built{where}; install testbed again with {needed_for(name)}")
    try:
        library = ctypes.CDLL(str(file))
        version = library.testbed_abi_version()
    except (OSError, AttributeError) as error:
        raise EngineError(f"{file} is not a native library of testbed ({error}); install testbed again") from error
    if version != abi_version:
        raise EngineError(f"{file} has ABI version {version}, not {abi_version}; install testbed again")
    return library, file
