"""What works on this machine: engines, kernels and libraries are really asked, and each missing one says why."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata

from testbed.core.errors import first_line
from testbed.core.folder.provenance import processor
from testbed.doctor.engines import engine_findings
from testbed.doctor.findings import Finding
from testbed.doctor.kernels import kernel_findings
from testbed.engines.availability import ORT_PACKAGE
from testbed.engines.backends import BACKENDS
from testbed.engines.gpu import cuda_devices

REQUIRED = (
    *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy", "scipy", "scikit-learn", "pandas"),
    *("pyarrow", "pydantic", "safetensors", "matplotlib", "jinja2", "pillow", "psutil", "click", "rich", "filelock"),
    "ml-dtypes",
)
OPTIONAL = (
    *(backend.package for backend in BACKENDS.values() if backend.library not in REQUIRED),
    *("pycuda", "cuda-bindings", "dask", "distributed", "tensorboard", "wandb"),
)


@dataclass(frozen=True)
class PythonFinding:
    """The Python that runs the testbed."""

    version: str
    executable: str


@dataclass(frozen=True)
class HostFinding:
    """This machine. memory_gib: None where psutil is missing; gpu_reason: why ``gpus`` is empty."""

    platform: str
    machine: str
    cpu: str
    usable_cores: int | None
    memory_gib: float | None
    gpus: list[str]
    gpu_reason: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What `testbed doctor` says."""

    python: PythonFinding
    host: HostFinding
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
    return Diagnosis(
        python=PythonFinding(platform.python_version(), sys.executable),
        host=_host(),
        engines=engine_findings(),
        kernels=kernel_findings(f"pip install {ORT_PACKAGE}"),
        libraries=[_library(name, required=True) for name in REQUIRED]
        + [_library(name, required=False) for name in OPTIONAL],
    )


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
    return Finding(name, False, None, missing, f"pip install {ORT_PACKAGE if name == 'onnxruntime' else name}")


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
            importlib.import_module("testbed.data.torchvision_import")
        except Exception:
            return Finding(name, False, version, f"required, but {why}", f"the {name} of torch's own package index")
        return Finding(name, True, version, f"required; works in testbed only: {why}")
    return Finding(name, True, version, "required")


def _host() -> HostFinding:
    devices, reason = cuda_devices()
    return HostFinding(
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=processor(),
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_gib=_memory_gib(),
        gpus=devices,
        gpu_reason=reason or None,
    )


def _memory_gib() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    return round(float(psutil.virtual_memory().total) / 2**30, 1)
