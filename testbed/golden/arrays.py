"""Arrays larger than memory: written batch by batch into one .npy file, read memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from testbed.core.errors import StaleArtefact, TestbedError
from testbed.core.folder.files import atomic_path


class ArrayWriter:
    """Appends batches to a .npy file of ``rows`` rows; the row shape is taken from the first batch."""

    def __init__(self, file: BinaryIO, rows: int, dtype: DTypeLike) -> None:
        self._file, self._rows, self._dtype = file, rows, np.dtype(dtype)
        self._shape: tuple[int, ...] | None = None
        self._written = 0

    def append(self, batch: NDArray) -> None:
        """Appends a batch (b, ...). Raises TestbedError when the shape changes or too many rows come."""
        if self._shape is None:
            self._shape = batch.shape[1:]
            header = {
                "descr": npy.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._rows, *self._shape),
            }
            npy.write_array_header_2_0(self._file, header)
        self._written += len(batch)
        if batch.shape[1:] != self._shape or self._written > self._rows:
            raise TestbedError(f"a batch of shape {batch.shape} does not fit an array of {(self._rows, *self._shape)}")
        self._file.write(np.ascontiguousarray(batch, self._dtype).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._written != self._rows:
            raise TestbedError(f"{self._written} of {self._rows} rows were written")


@contextmanager
def array_writer(path: Path, rows: int, dtype: DTypeLike = np.float32) -> Iterator[ArrayWriter]:
    """A writer for ``path``, which appears whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file, ArrayWriter(file, rows, dtype) as writer:
        yield writer
        file.flush()


def read_array(path: Path) -> NDArray:
    """The array, memory-mapped read-only. Raises StaleArtefact for a damaged file."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StaleArtefact(f"{path} is not a readable array ({error}); record the golden again") from error
