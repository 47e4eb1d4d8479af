"""What decides the bits of prepared files and shown gates beside their own inputs: the program and the machine."""

from __future__ import annotations

import inspect
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

from testbed.core.folder.files import sha256_file, sha256_json
from testbed.core.folder.provenance import installed_version, library_versions, processor
from testbed.core.process import libraries
from testbed.engines.backends import BACKENDS, registered_engine
from testbed.engines.gpu import cuda_devices

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "analysis",
    "campaign",
    "core",
    "data",
    "engines",
    "export",
    "golden",
    "instrument",
    "models",
    "semantics.py",
)
"""Parts of the package that take part in preparing a campaign and running its gates."""
_DECISIVE = (
    *("ATEN_", "CUBLAS_", "CUDA_", "DNNL_", "GLIBC_TUNABLES", "GOMP_", "KMP_", "MKL_", "NPY_", "NVIDIA_", "OMP_"),
    *("ONEDNN_", "OPENBLAS_", "ORT_", "OV_", "TORCH_"),
)
"""Beginnings of environment variables by which libraries choose kernels and threads."""
_OF_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU", "Features")
_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def made_by(backend: str | None = None) -> dict[str, Any]:
    """JSON that changes with whatever could make the same inputs give other bits: sources and native libraries of the
    testbed, versions of libraries, processor and its instructions, and environment variables of numerical libraries.

    backend: the engine that takes part; its GPU and, of another package, its source count too.
    """
    return {
        "sources": sources_digest(ROOT),
        "native": _native(),
        "versions": library_versions() | _exporters(),
        "machine": machine(),
        "engine": {} if backend is None else _engine(backend),
    }


@cache
def sources_digest(root: Path) -> str:
    """Hash of the program's sources, as they are when it is first asked for."""
    parts = [root / part for part in SOURCES]
    files = [file for part in parts for file in (sorted(part.rglob("*.py")) if part.is_dir() else [part])]
    return sha256_json({str(file.relative_to(root)): sha256_file(file) for file in files})


def machine() -> dict[str, Any]:
    """What of this machine, and of this process's environment, decides how numbers are computed."""
    decisive = {name: value for name, value in os.environ.items() if name.startswith(_DECISIVE) and name != _TELEMETRY}
    return {
        "architecture": platform.machine(),
        "processor": processor(),
        "instructions": _instructions(),
        "caches": _caches(),
        "cores": os.cpu_count(),
        "libc": list(platform.libc_ver()),
        "python": platform.python_version(),
        "environment": dict(sorted(decisive.items())),
    }


@cache
def _instructions() -> str:
    """Hash of what the first processor says of its model and its instruction sets; empty where the system does not tell it."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return ""
    return sha256_json(sorted(line for line in first.splitlines() if line.startswith(_OF_PROCESSOR)))


@cache
def _caches() -> list[str]:
    """Sizes of the processor's caches, by which libraries cut matrices into blocks."""
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return [size.read_text().strip() for size in sizes]


def _native() -> dict[str, str]:
    return {file.name: sha256_file(file) for file in libraries.built()}


def _exporters() -> dict[str, str]:
    return {name: version for name in ("onnxscript", "onnx-ir") if (version := installed_version(name))}


def _engine(backend: str) -> dict[str, Any]:
    if backend in BACKENDS:
        return {"gpus": cuda_devices()[0] if BACKENDS[backend].on_gpu else []}
    try:
        source = inspect.getsourcefile(registered_engine(backend).runner)
    except TypeError:  # built in, or an object that is called
        source = None
    return {
        "gpus": cuda_devices()[0],
        "version": registered_engine(backend).available()[1],
        "source": None if source is None else sha256_file(Path(source)),
    }
