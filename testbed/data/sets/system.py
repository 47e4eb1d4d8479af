"""Data sets that packages of the operating system install: Debian's ``dataset-fashion-mnist``, for one.

They lie under ``datasets/NAME`` in the system's data folders, as compressed files of the IDX format.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_UINT8 = 8  # the IDX format's code of a type


def system_folder(name: str, files: tuple[str, ...]) -> Path | None:
    """The first ``datasets/NAME`` that has all the files, in $XDG_DATA_DIRS, else /usr/local/share and /usr/share."""
    folders = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    for folder in folders.split(os.pathsep):
        candidate = Path(folder) / "datasets" / name
        if Path(folder).is_absolute() and all((candidate / file).is_file() for file in files):
            return candidate
    return None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes (yann.lecun.com/exdb/mnist), decompressed where its name ends in .gz.

    Raises ValueError for another format or a cut file, OSError for one that cannot be read.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is cut off or damaged: {error}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UINT8]):
        raise ValueError(f"{path.name} is not an IDX file of unsigned bytes")
    header = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    data = np.frombuffer(content, np.uint8, offset=min(header, len(content)))
    if len(shape) != content[3] or data.size != np.prod(shape, dtype=object):
        raise ValueError(f"{path.name} holds {data.size} bytes where its header says {shape}")
    return data.reshape(shape)
