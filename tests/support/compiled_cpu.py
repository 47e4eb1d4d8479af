"""The CPU library, compiled here from the sources as they are: what is tested does not depend on what is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
SOURCES = ["cpu.cpp", "judge.cpp", "changes.cpp"]  # of testbed_cpu, in CMakeLists.txt


def compiled_cpu(folder: Path, *more: str) -> Path:
    """``folder``, with the library in it. Skips the test where there is no compiler. more: flags after the usual ones."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    target = ["-shared", "-fPIC", "-fvisibility=hidden", "-o", str(folder / "testbed_cpu.so")]
    subprocess.run([compiler, *FLAGS, *more, *(str(KERNELS / name) for name in SOURCES), *target], check=True)
    return folder
