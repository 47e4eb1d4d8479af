"""The native libraries, compiled from the sources as they are; faults, and values that are hard to carry bit for bit."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.semantics import corrupt
from tests.support.compiled_cpu import KERNELS

EMULATION = Path(__file__).parent / "cuda_emulation"
FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]

FORMATS = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int32": np.dtype(np.int32),
}
# Quiet and signalling NaNs with payloads, infinities, both zeros, the smallest denormals, ones.
CORNERS = {
    4: [0x7FC00001, 0xFFC12345, 0x7F800001, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x80000001, 0x3F800000],
    2: [0x7E01, 0xFF81, 0x7C01, 0x7C00, 0xFC00, 0, 0x8000, 1, 0x8001, 0x3C00, 0x7F81, 0x7F80],
    1: [0, 0x80, 0xFF, 0x7F, 1],
}


def words(width: int) -> st.SearchStrategy[int]:
    """Bit patterns of values of ``width`` bytes."""
    return st.one_of(st.integers(0, 2 ** (8 * width) - 1), st.sampled_from(CORNERS[width]))


def masks() -> st.SearchStrategy[int]:
    """Words of masks, wider than most values: what does not fit is cut off."""
    return st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 2**32 - 1]))


PORT = 7
FAULT_INPUTS = ("site", "index", "and", "or", "xor")


@dataclass
class Case:
    """A batch and its faults; x is (B, E)."""

    x: NDArray
    site: NDArray[np.int64]
    index: NDArray[np.int64]
    and_mask: NDArray[np.uint32]
    or_mask: NDArray[np.uint32]
    xor_mask: NDArray[np.uint32]

    def feeds(self) -> dict[str, NDArray]:
        faults = (self.site, self.index, self.and_mask, self.or_mask, self.xor_mask)
        return {"x": self.x, **dict(zip(FAULT_INPUTS, faults, strict=True))}

    def expected(self, port: int = PORT) -> tuple[NDArray, NDArray]:
        """y and current, one fault after the other."""
        y, current = self.x.copy(), np.zeros(self.site.shape, self.x.dtype)
        for b, k in np.argwhere(self.site == port):
            current[b, k] = self.x[b, self.index[b, k]]
        for b, k in np.argwhere(self.site == port):
            place = (b, slice(self.index[b, k], self.index[b, k] + 1))
            y[place] = corrupt(y[place], self.and_mask[b, k], self.or_mask[b, k], self.xor_mask[b, k])
        return y, current


@st.composite
def cases(draw: st.DrawFn, dtype: np.dtype) -> Case:
    """Few elements, so that faults of one row meet on one; faults of other ports may have any index."""
    rows, elements, slots = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 5))

    def array(element: st.SearchStrategy[int], shape: tuple[int, int], kind: Any) -> NDArray:
        size = shape[0] * shape[1]
        return np.array(draw(st.lists(element, min_size=size, max_size=size)), kind).reshape(shape)

    site = array(st.sampled_from([PORT, PORT, 3, -1]), (rows, slots), np.int64)
    inside = array(st.integers(0, elements - 1), (rows, slots), np.int64)
    anywhere = array(st.integers(-(2**63), 2**63 - 1), (rows, slots), np.int64)
    x = array(words(dtype.itemsize), (rows, elements), f"u{dtype.itemsize}").view(dtype)
    faulty = [array(masks(), (rows, slots), np.uint32) for _ in range(3)]
    return Case(x, site, np.where(site == PORT, inside, anywhere), *faulty)


def one_fault(x: NDArray, index: int = 0, xor: int = 1, port: int = PORT) -> Case:
    """The same fault in every row."""
    shape = (len(x), 1)
    full = [np.full(shape, word, np.uint32) for word in (2**32 - 1, 0, xor)]
    return Case(x, np.full(shape, port, np.int64), np.full(shape, index, np.int64), *full)


def compiled(source: Path, target: Path, *more: str) -> None:
    """Skips the test where there is no C++ compiler; a source that does not compile fails it."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    language = ["-x", "c++"] if source.suffix == ".cu" else []
    subprocess.run([compiler, *FLAGS, *more, *language, str(source), "-o", str(target), "-ldl"], check=True)


@pytest.fixture(scope="session")
def native_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for TESTBED_NATIVE with the libraries that need only a C++ compiler."""
    folder = tmp_path_factory.mktemp("native")
    compiled(KERNELS / "cpu.cpp", folder / "testbed_cpu.so")
    compiled(KERNELS / "onnxruntime_op.cpp", folder / "testbed_onnxruntime.so")
    return folder


@pytest.fixture(scope="session")
def emulated_cuda_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for TESTBED_NATIVE with the CUDA kernels as they are, and the op that uses them, running on the host (see
    cuda_emulation/)."""
    folder = tmp_path_factory.mktemp("emulated")
    compiled(KERNELS / "cuda.cu", folder / "testbed_cuda.so", "-I", str(EMULATION))
    compiled(EMULATION / "op_on_cpu_provider.cpp", folder / "testbed_onnxruntime.so", "-I", str(KERNELS))
    return folder
