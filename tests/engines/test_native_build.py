"""CMake builds the native libraries: the CUDA kernels for every architecture, and the rest whatever goes wrong with CUDA."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.core.process import libraries

ROOT = Path(__file__).parents[2]
needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake on PATH")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
pytestmark = needs_cmake


def configure(
    build: Path, *, cuda: str, nvcc: Path | None = None, **definitions: str
) -> subprocess.CompletedProcess[str]:
    """``nvcc``: the compiler that is found in place of the real one."""
    asked = {"TESTBED_CUDA": cuda, "CMAKE_EXPORT_COMPILE_COMMANDS": "ON", **definitions}
    if nvcc:
        asked["CMAKE_CUDA_COMPILER"] = str(nvcc)
    command = ["cmake", "-S", str(ROOT), "-B", str(build), *(f"-D{name}={value}" for name, value in asked.items())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TESTBED_", "TENSORRT_"))}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def build_all(build: Path) -> None:
    made = subprocess.run(["cmake", "--build", str(build)], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@needs_nvcc
def test_the_cuda_kernels_compile_for_every_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured = configure(tmp_path, cuda="ON")
    assert configured.returncode == 0, configured.stderr
    build_all(tmp_path)

    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    (kernels,) = (entry["command"] for entry in commands if entry["file"].endswith("cuda.cu"))
    assert "all-warnings" in kernels  # of the device's code; with them the host's
    assert "-Werror" in kernels.split("-Xcompiler")[-1]
    assert any(code in kernels for code in ("code=[compute_120,sm_120]", "code=[sm_120,compute_120]"))  # PTX too
    built = (tmp_path / "testbed_cuda.so").read_bytes()
    for architecture in ("sm_80", "sm_90", "sm_120"):
        assert f"-arch {architecture} ".encode() in built
    assert b"libcudart.so" not in built  # static: no CUDA has to be installed where it runs

    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    for name in (libraries.CPU, libraries.ONNXRUNTIME, libraries.CUDA):
        libraries.load(name)
    library, _ = libraries.load(libraries.CUDA)
    library.testbed_cuda_status_text.restype = ctypes.c_char_p
    assert library.testbed_cuda_status_text(-1) == b"values must be 1, 2 or 4 bytes wide"
    assert library.testbed_cuda_status_text(0) == b"no error"
    assert libraries.load(libraries.ONNXRUNTIME)[0].testbed_op_has_cuda() == 1


@pytest.mark.parametrize("broken", ["exit 1", "echo no CUDA here", "kill -SEGV $$"])
def test_a_broken_nvcc_leaves_the_cuda_kernels_out(tmp_path: Path, broken: str) -> None:
    nvcc = script(tmp_path / "nvcc", broken)
    configured = configure(tmp_path / "build", cuda="AUTO", nvcc=nvcc)
    assert configured.returncode == 0, configured.stderr
    assert "CUDA kernels: left out" in configured.stdout
    assert configure(tmp_path / "on", cuda="ON", nvcc=nvcc).returncode != 0


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("unknown", ["kernels/cuda.cu", "compute_120"])
def test_kernels_that_do_not_compile_are_left_out(tmp_path: Path, unknown: str) -> None:
    """The compiler works for other sources, or for older architectures."""
    fails = f'case "$*" in *{unknown}*) echo "not this one" >&2; exit 1;; esac\nexec {shutil.which("nvcc")} "$@"'
    nvcc = script(tmp_path / "nvcc", fails)
    build = tmp_path / "build"
    configured = configure(build, cuda="AUTO", nvcc=nvcc)
    assert configured.returncode == 0, configured.stderr
    assert "CUDA kernels: left out" in configured.stdout
    assert "not this one" in (build / "cuda.log").read_text()
    build_all(build)
    assert sorted(path.name for path in build.glob("*.so")) == ["testbed_cpu.so", "testbed_onnxruntime.so"]

    on = configure(tmp_path / "on", cuda="ON", nvcc=nvcc)
    made = subprocess.run(["cmake", "--build", str(tmp_path / "on")], capture_output=True, text=True)
    assert on.returncode or made.returncode
    assert "not this one" in on.stderr + made.stdout + made.stderr


@pytest.mark.slow
@needs_nvcc
def test_without_being_asked_the_cuda_kernels_are_built_where_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configure(tmp_path, cuda="AUTO").returncode == 0
    build_all(tmp_path)
    monkeypatch.setenv("TESTBED_NATIVE", str(tmp_path))
    libraries.load(libraries.CUDA)
    assert libraries.load(libraries.ONNXRUNTIME)[0].testbed_op_has_cuda() == 1


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        ({"cuda": "MAYBE"}, "TESTBED_CUDA is 'MAYBE'; it must be AUTO, ON or OFF"),
        ({"cuda": "OFF", "TENSORRT_INCLUDE_DIR": "/nowhere"}, "the plugin needs the CUDA kernels"),
    ],
)
def test_what_cannot_be_built_is_said(tmp_path: Path, definitions: dict[str, str], message: str) -> None:
    configured = configure(tmp_path, **definitions)  # type: ignore[arg-type]
    assert configured.returncode != 0
    assert message in " ".join(configured.stderr.split())
