"""What works on this machine: engines, kernels and libraries are really asked, and each missing one says why."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from testbed.engines import native

_CUDA_SUCCESS = 0
_ORT_CUDA = "CUDAExecutionProvider"
_NEEDS_DRIVER = "an NVIDIA GPU with its driver"

REQUIRED = (
    *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy", "scipy", "scikit-learn", "pandas"),
    *("pyarrow", "pydantic", "safetensors", "matplotlib", "jinja2", "pillow", "psutil", "click", "rich"),
)
OPTIONAL = ("openvino", "tensorrt", "tensorrt-rtx-cu13", "pycuda", "cuda-bindings", "dask", "distributed")


@dataclass(frozen=True)
class Finding:
    """One thing asked about. ``detail``: what is there, or why it does not work; ``install``: what would help."""

    name: str
    available: bool
    version: str | None
    detail: str
    install: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    python: dict[str, str]
    host: dict[str, Any]
    engines: list[Finding]
    kernels: list[Finding]
    libraries: list[Finding]


def diagnose() -> Diagnosis:
    """Asks everything, in seconds, for it imports each engine. Raises nothing: what fails becomes a finding."""
    engines: tuple[tuple[str, Callable[[str], Finding], str], ...] = (
        ("torch-cpu", _torch_cpu, "pip install torch"),
        ("torch-cuda", _torch_cuda, "pip install torch"),
        ("ort-cpu", _ort_cpu, f"pip install {_ort_package()}"),
        ("ort-cuda", _ort_cuda, f"pip install {_ort_package()}"),
        ("openvino", _openvino, "pip install openvino"),
        ("tensorrt", _tensorrt, "pip install tensorrt"),
        ("tensorrt-rtx", _tensorrt_rtx, "pip install tensorrt-rtx-cu13"),
    )
    return Diagnosis(
        python={"version": platform.python_version(), "executable": sys.executable},
        host=_host(),
        engines=[_probe(*engine) for engine in engines],
        kernels=[_native_kernel(), _cuda_kernel(), _nvcc()],
        libraries=[_library(name, required=True) for name in REQUIRED]
        + [_library(name, required=False) for name in OPTIONAL],
    )


def _probe(name: str, ask: Callable[[str], Finding], install: str) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # complaints about absent devices are what the finding itself says
            return ask(name)
    except ModuleNotFoundError as error:
        return Finding(name, False, None, f"{error.name} is not installed", install)
    except Exception as error:  # whatever a foreign library raises is a finding here, never a crash
        return Finding(name, False, None, f"does not work: {_first_line(error)}", f"{install} --force-reinstall")


def _torch_cpu(name: str) -> Finding:
    import torch

    total = torch.ones(2).sum().item()
    return Finding(name, total == 2, torch.__version__, "computes")


def _torch_cuda(name: str) -> Finding:
    import torch

    if torch.version.cuda is None:
        return Finding(name, False, torch.__version__, "this build of torch has no CUDA", "a CUDA build of torch")
    _, reason = cuda_devices()
    if reason:
        return Finding(name, False, torch.__version__, reason, _NEEDS_DRIVER)
    total = torch.ones(2, device="cuda").sum().item()
    return Finding(name, total == 2, torch.__version__, f"computes, CUDA {torch.version.cuda}")


def _ort_cpu(name: str) -> Finding:
    import onnxruntime

    provider = _ort_runs_on("CPUExecutionProvider")
    return Finding(name, provider == "CPUExecutionProvider", onnxruntime.__version__, "computes")


def _ort_cuda(name: str) -> Finding:
    import onnxruntime

    version = onnxruntime.__version__
    if _ORT_CUDA not in onnxruntime.get_available_providers():
        install = "pip uninstall onnxruntime, then pip install onnxruntime-gpu (the two conflict)"
        return Finding(name, False, version, "this build of onnxruntime has no CUDA provider", install)
    _, reason = cuda_devices()
    if reason:
        return Finding(name, False, version, f"the CUDA provider is there, but {reason}", _NEEDS_DRIVER)
    provider = _ort_runs_on(_ORT_CUDA)
    if provider != _ORT_CUDA:
        install = "the CUDA and cuDNN libraries that this onnxruntime was built for"
        return Finding(name, False, version, f"asked for CUDA, it fell back to {provider}", install)
    return Finding(name, True, version, "computes")


def _ort_runs_on(provider: str) -> str:
    """The provider that a session asked for ``provider`` really took; ONNX Runtime falls back without an error."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failed provider is reported as a finding, not as a log on stderr
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
    session.run(None, {"x": np.ones(2, np.float32)})
    taken: str = session.get_providers()[0]
    return taken


def _openvino(name: str) -> Finding:
    import openvino

    devices = openvino.Core().available_devices
    return Finding(name, "CPU" in devices, openvino.__version__, f"devices: {', '.join(devices) or 'none'}")


def _tensorrt(name: str) -> Finding:
    return _tensorrt_like(name, "tensorrt")


def _tensorrt_rtx(name: str) -> Finding:
    return _tensorrt_like(name, "tensorrt_rtx")


def _tensorrt_like(name: str, module: str) -> Finding:
    version = str(importlib.import_module(module).__version__)
    devices, reason = cuda_devices()
    if reason:
        return Finding(name, False, version, f"imports, but cannot run: {reason}", _NEEDS_DRIVER)
    return Finding(name, True, version, f"imports; devices: {', '.join(devices)}")


@cache
def cuda_devices() -> tuple[list[str], str]:
    """Names of the GPUs that the CUDA driver offers; without any, also the reason, as the driver gives it."""
    file = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(file)
    except OSError:
        return [], f"the NVIDIA driver is not installed ({file} does not load)"
    status = driver.cuInit(0)
    if status != _CUDA_SUCCESS:
        return [], f"the NVIDIA driver finds no usable GPU (cuInit: {_cuda_error(driver, status)})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != _CUDA_SUCCESS or not count.value:
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


def _native_kernel() -> Finding:
    usable, detail = native.available()
    version = f"ABI {native.ABI_VERSION}" if usable else None
    return Finding("cpu kernel", usable, version, detail, None if usable else "a C++ compiler, then testbed again")


def _cuda_kernel() -> Finding:
    return Finding("cuda kernel", False, None, "this version of testbed has none")


def _nvcc() -> Finding:
    path = shutil.which("nvcc")
    if path is None:
        return Finding("nvcc", False, None, "not on PATH; it compiles CUDA kernels", "the CUDA toolkit")
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("nvcc", False, None, f"{path} does not run: {_first_line(error)}", "the CUDA toolkit")
    release = re.search(r"release ([\d.]+)", answer)
    return Finding("nvcc", True, release[1] if release else None, path)


def _library(name: str, required: bool) -> Finding:
    # metadata only: importing a library can cost seconds, and the engines above are imported anyway
    for distribution in ("onnxruntime-gpu", "onnxruntime") if name == "onnxruntime" else (name,):
        try:
            return Finding(name, True, metadata.version(distribution), "required" if required else "optional")
        except metadata.PackageNotFoundError:
            continue
    missing = "required, but not installed" if required else "optional, not installed"
    return Finding(name, False, None, missing, f"pip install {_ort_package() if name == 'onnxruntime' else name}")


def _ort_package() -> str:
    on_linux_x86 = sys.platform == "linux" and platform.machine() == "x86_64"
    return "onnxruntime-gpu" if on_linux_x86 else "onnxruntime"


def _host() -> dict[str, Any]:
    devices, reason = cuda_devices()
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": devices,
        "gpu_reason": reason or None,
    }


def _cpu_model() -> str:
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        model = None
    return model[1] if model else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    return round(float(psutil.virtual_memory().total) / 2**30, 1)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
