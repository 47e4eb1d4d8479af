"""How an engine's library is asked whether it works on this machine; where it does not, what would help."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib import import_module

from testbed.core.errors import first_line
from testbed.engines.gpu import cuda_devices

Ask = Callable[[str, str], str]
"""(module of the library, package that pip installs) -> the library's version. Raises MissingLibrary."""

_ON_LINUX_X86 = sys.platform == "linux" and platform.machine() == "x86_64"
ORT_PACKAGE = "onnxruntime-gpu" if _ON_LINUX_X86 else "onnxruntime"
"""The package of ONNX Runtime's CPU provider: on Linux x86-64 the GPU build, which has it too and conflicts with the plain
one."""


class MissingLibrary(Exception):
    """Says what is missing, and what would help."""


def ask_library(library: str, package: str) -> str:
    """Import it."""
    try:
        return str(import_module(library).__version__)
    except ModuleNotFoundError as error:
        raise MissingLibrary(f"{error.name} is not installed: pip install {package}") from error
    except Exception as error:  # a library that breaks on import: of another CUDA, of another glibc
        problem = f"{library} does not import ({first_line(error)})"
        raise MissingLibrary(f"{problem}: pip install {package} --force-reinstall") from error


def ask_library_and_gpu(library: str, package: str) -> str:
    """Import it, and ask the driver for a GPU."""
    version = ask_library(library, package)
    _require_gpu()
    return version


def ask_torch_cuda(library: str, package: str) -> str:
    """Import PyTorch, and ask it for CUDA and the driver for a GPU."""
    version = ask_library(library, package)
    if import_module(library).version.cuda is None:
        raise MissingLibrary(f"this build of torch ({version}) has no CUDA: install a CUDA build of torch")
    _require_gpu()
    return version


def ask_onnxruntime_cuda(library: str, package: str) -> str:
    """Import ONNX Runtime, and ask it for its CUDA provider and the driver for a GPU."""
    version = ask_library(library, package)
    if "CUDAExecutionProvider" not in import_module(library).get_available_providers():
        raise MissingLibrary(
            f"this build of onnxruntime ({version}) has no CUDA provider:"
            " pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    _require_gpu()
    return version


def _require_gpu() -> None:
    devices, reason = cuda_devices()
    if not devices:
        raise MissingLibrary(f"{reason}; it needs an NVIDIA GPU with its driver")
