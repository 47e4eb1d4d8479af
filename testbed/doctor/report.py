"""What works on this machine: engines, kernels and libraries are really asked, and each missing one says why."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from testbed.core.folder.provenance import processor
from testbed.doctor.findings import NEEDS_DRIVER, Finding, first_line, probe
from testbed.doctor.kernels import kernel_findings
from testbed.engines.gpu import cuda_devices
from testbed.engines.plugins import EnginePlugin, engine_plugins
from testbed.engines.runner import BACKENDS

_ORT_CUDA = "CUDAExecutionProvider"

REQUIRED = (
    *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy", "scipy", "scikit-learn", "pandas"),
    *("pyarrow", "pydantic", "safetensors", "matplotlib", "jinja2", "pillow", "psutil", "click", "rich", "filelock"),
    "ml-dtypes",
)
OPTIONAL = ("openvino", "tensorrt", "tensorrt-rtx-cu13", "pycuda", "cuda-bindings", "dask", "distributed")


@dataclass(frozen=True)
class Diagnosis:
    python: dict[str, str]
    host: dict[str, Any]
    engines: list[Finding]
    kernels: list[Finding]
    libraries: list[Finding]


def diagnose() -> Diagnosis:
    """Say which engines, kernels and libraries work on this machine, and what to install for the rest.

    Each engine is imported and made to compute, which takes seconds. What fails becomes a finding, never an error.

    Returns:
        Findings of engines, kernels and libraries, with `name`, `available`, `version`, `detail` and `install`.

    Example:
        ```py
        print([finding.name for finding in testbed.diagnose().engines if finding.available])
        ```
    """
    engines: tuple[tuple[str, Callable[[str], Finding], str], ...] = (
        ("torch", _torch_cpu, "pip install torch"),
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
        engines=[*(probe(*engine) for engine in engines), *map(_plugin, engine_plugins().values())],
        kernels=kernel_findings(f"pip install {_ort_package()}"),
        libraries=[_library(name, required=True) for name in REQUIRED]
        + [_library(name, required=False) for name in OPTIONAL],
    )


def _plugin(plugin: EnginePlugin) -> Finding:
    """An engine of another package."""
    if plugin.name in BACKENDS:
        return Finding(plugin.name, False, plugin.version, f"{plugin} is not used: the testbed has one of that name")
    usable, detail = plugin.available()
    if not usable:
        return Finding(plugin.name, False, plugin.version, detail, f"pip install --force-reinstall {plugin.package}")
    return Finding(plugin.name, True, detail, f"of package {plugin.package}")


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
        return Finding(name, False, torch.__version__, reason, NEEDS_DRIVER)
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
        return Finding(name, False, version, f"the CUDA provider is there, but {reason}", NEEDS_DRIVER)
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

    from testbed.engines.openvino import shared_core

    devices = shared_core().available_devices
    return Finding(name, "CPU" in devices, openvino.__version__, f"devices: {', '.join(devices) or 'none'}")


def _tensorrt(name: str) -> Finding:
    return _tensorrt_like(name, "tensorrt")


def _tensorrt_rtx(name: str) -> Finding:
    return _tensorrt_like(name, "tensorrt_rtx")


def _tensorrt_like(name: str, module: str) -> Finding:
    version = str(importlib.import_module(module).__version__)
    devices, reason = cuda_devices()
    if reason:
        return Finding(name, False, version, f"imports, but cannot run: {reason}", NEEDS_DRIVER)
    return Finding(name, True, version, f"imports; devices: {', '.join(devices)}")


def _library(name: str, required: bool) -> Finding:
    # metadata only: importing a library can cost seconds, and the engines above are imported anyway
    if name == "torchvision":
        return _torchvision(name)
    for distribution in ("onnxruntime-gpu", "onnxruntime") if name == "onnxruntime" else (name,):
        try:
            return Finding(name, True, metadata.version(distribution), "required" if required else "optional")
        except metadata.PackageNotFoundError:
            continue
    missing = "required, but not installed" if required else "optional, not installed"
    return Finding(name, False, None, missing, f"pip install {_ort_package() if name == 'onnxruntime' else name}")


def _torchvision(name: str) -> Finding:
    """Really imported: a wheel that was built beside another build of torch is installed, and fails."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, False, None, "required, but not installed", f"pip install {name}")
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a foreign library raises is a finding here, never a crash
        why = f"`import {name}` fails ({first_line(error)})"
        try:
            importlib.import_module("testbed.data._torchvision")
        except Exception:
            return Finding(name, False, version, f"required, but {why}", f"the {name} of torch's own package index")
        return Finding(name, True, version, f"required; works in testbed only: {why}")
    return Finding(name, True, version, "required")


def _ort_package() -> str:
    on_linux_x86 = sys.platform == "linux" and platform.machine() == "x86_64"
    return "onnxruntime-gpu" if on_linux_x86 else "onnxruntime"


def _host() -> dict[str, Any]:
    devices, reason = cuda_devices()
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": processor(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": devices,
        "gpu_reason": reason or None,
    }


def _memory_gib() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    return round(float(psutil.virtual_memory().total) / 2**30, 1)
