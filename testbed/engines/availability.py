"""Which engines this machine can run; where it cannot run one, why, and what would help."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib import import_module

from testbed.core.errors import first_line
from testbed.engines.gpu import cuda_devices
from testbed.engines.plugins import engine_plugins


def available(backend: str) -> tuple[bool, str]:
    """Whether the engine can run here, and its version, or in one line why not and what to install.

    Imports the engine's library. Raises KeyError for a backend that nobody offers.
    """
    if backend not in _ASKED:
        return engine_plugins()[backend].available()
    try:
        return True, _ASKED[backend]()
    except _Missing as missing:
        return False, str(missing)


class _Missing(Exception):
    """Says what is missing, and what would help."""


def _version(module: str, install: str) -> str:
    try:
        return str(import_module(module).__version__)
    except ModuleNotFoundError as error:
        raise _Missing(f"{error.name} is not installed: {install}") from error
    except Exception as error:  # a library that breaks on import: of another CUDA, of another glibc
        raise _Missing(f"{module} does not import ({first_line(error)}): {install} --force-reinstall") from error


def _gpu() -> None:
    devices, reason = cuda_devices()
    if not devices:
        raise _Missing(f"{reason}; it needs an NVIDIA GPU with its driver")


def _ort_cpu() -> str:
    on_linux_x86 = sys.platform == "linux" and platform.machine() == "x86_64"
    return _version("onnxruntime", f"pip install {'onnxruntime-gpu' if on_linux_x86 else 'onnxruntime'}")


def _ort_cuda() -> str:
    version = _version("onnxruntime", "pip install onnxruntime-gpu")
    if "CUDAExecutionProvider" not in import_module("onnxruntime").get_available_providers():
        raise _Missing(
            f"this build of onnxruntime ({version}) has no CUDA provider:"
            " pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    _gpu()
    return version


def _torch() -> str:
    return _version("torch", "pip install torch")


def _torch_cuda() -> str:
    version = _torch()
    if import_module("torch").version.cuda is None:
        raise _Missing(f"this build of torch ({version}) has no CUDA: install a CUDA build of torch")
    _gpu()
    return version


def _openvino() -> str:
    return _version("openvino", "pip install openvino")


def _tensorrt() -> str:
    version = _version("tensorrt", "pip install tensorrt")
    _gpu()
    return version


def _tensorrt_rtx() -> str:
    version = _version("tensorrt_rtx", "pip install tensorrt-rtx-cu13")
    _gpu()
    return version


_ASKED: dict[str, Callable[[], str]] = {
    "ort-cpu": _ort_cpu,
    "ort-cuda": _ort_cuda,
    "torch": _torch,
    "torch-cuda": _torch_cuda,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
}
