"""Compiles the native libraries of this checkout, each with one command, into a folder named by what they are made of."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed import TestbedError
from testbed.core.process import libraries

from .common import Absent, Section

ROOT = Path(__file__).parents[2]
KERNELS, EMULATION = ROOT / "kernels", ROOT / "tests" / "engines" / "cuda_emulation"
_WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
_CPP = ("-std=c++17", "-O2", *_WARNINGS, "-ffp-contract=off", "-shared", "-fPIC", "-fvisibility=hidden")
_NVCC = ("-std=c++17", "-O2", "-cudart", "static", "-shared", "-Werror", "all-warnings")
_NVCC_HOST = f"-Xcompiler={','.join(('-fPIC', '-fvisibility=hidden', *_WARNINGS))}"
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
ARCHITECTURES = ("80", "90", "120")  # where there is no GPU to ask
_GIVEN = "TESTBED_NATIVE"


def use_cpu_kernels() -> Section:
    """``testbed_cpu`` where campaigns look for it: as it is installed, else compiled. Raises Absent, TestbedError."""
    try:
        return {"file": libraries.load(libraries.CPU)[1].name, "given": True}
    except TestbedError:
        sources = [KERNELS / name for name in ("cpu.cpp", "judge.cpp", "changes.cpp")]
        return _used(libraries.CPU, [compiler(), *_CPP, *map(str, sources)])


def use_cuda_kernels(gpu: bool) -> Section:
    """``testbed_cuda``, always compiled from this checkout, by nvcc for the GPU that is here; without one, for the host
    (tests/engines/cuda_emulation). Raises Absent where there is no compiler, TestbedError where it fails."""
    if gpu:
        return _used(libraries.CUDA, nvcc_command(architecture()))
    found = _used(libraries.CUDA, [compiler(), *_CPP, "-x", "c++", f"-I{EMULATION}", str(KERNELS / "cuda.cu"), "-ldl"])
    _emulate_driver()
    return found


def nvcc_command(architectures: Sequence[str]) -> list[str]:
    """Machine code for each, and PTX for the last, which newer GPUs translate."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise Absent("nvcc is not on PATH")
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    last = architectures[-1]
    ptx = f"-gencode=arch=compute_{last},code=compute_{last}"
    return [nvcc, *_NVCC, _NVCC_HOST, *codes, ptx, str(KERNELS / "cuda.cu")]


def architecture() -> tuple[str, ...]:
    """Of the first GPU, as nvcc names it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ARCHITECTURES
    device, value, found = ctypes.c_int(), ctypes.c_int(), []
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return ARCHITECTURES
    for attribute in _CAPABILITY:
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return ARCHITECTURES
        found.append(value.value)
    return (f"{found[0]}{found[1]}",)


def compiler() -> str:
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found is None:
        raise Absent("no C++ compiler on PATH")
    return found


def _used(library: str, command: list[str]) -> Section:
    """Compiles into a folder that this process's TESTBED_NATIVE then names. A folder that the user gave is left alone."""
    if os.environ.get(_GIVEN) and not os.environ.get("GPU_CHECK_BUILT"):
        return {"file": libraries.load(library)[1].name, "given": True}
    folder = build_folder(command)
    target, start = folder / f"{library}.so", time.perf_counter()
    if not target.is_file():
        compile_library(command, target)
    os.environ[_GIVEN], os.environ["GPU_CHECK_BUILT"] = str(folder), "1"
    shown = " ".join(word.replace(f"{ROOT}{os.sep}", "") for word in command)
    return {"file": target.name, "command": shown, "seconds": round(time.perf_counter() - start, 2)}


def compile_library(command: list[str], target: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".so", delete=False) as file:
        made = Path(file.name)
    done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
    if done.returncode:
        made.unlink(missing_ok=True)
        said = next((line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()), "no word")
        raise TestbedError(f"{target.stem} does not compile: {said.strip()[:300]}")
    made.chmod(0o755)
    os.replace(made, target)


def build_folder(command: list[str]) -> Path:
    digest = hashlib.sha256("\0".join([*command, sys.platform]).encode())
    for source in sorted([*KERNELS.iterdir(), *EMULATION.glob("*.h")]):
        digest.update(source.read_bytes())
    name = digest.hexdigest()[:12]
    for base in (ROOT / "build" / "gpu_check", Path(tempfile.gettempdir()) / "testbed-gpu-check"):
        try:
            (base / name).mkdir(parents=True, exist_ok=True)
        except OSError:  # a checkout that is read-only
            continue
        return base / name
    raise TestbedError("there is no folder to compile into: neither build/ nor the system's temporary folder")


def _emulate_driver() -> None:
    """Host memory in place of a GPU's, as the tests have it."""
    from testbed.engines import cuda_driver

    spec = importlib.util.spec_from_file_location("gpu_check_host_driver", EMULATION / "host_driver.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cuda_driver.BINDINGS = {"emulated": module.HostDriver}
