"""What a file of weights may claim: that much memory is taken only for numbers that the file holds."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor

from testbed.core.errors import TestbedError
from testbed.core.process.resources import format_bytes, require_memory
from testbed.models.keys import listed

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INFLATES, _SMALL = (
    8,
    1 << 26,
)  # weights shrink by a tenth, and zeros may; what is below 64 MiB is small whatever it was
_REPEATED = 1 << 20  # elements of a view that repeats stored ones, as of a table of positions
_RAW = b"bytearray"
_DEEPEST, _MOST_ENTRIES = 32, 1_000_000


def check_files(paths: Iterable[Path]) -> None:
    """Raises UsageError for files that do not fit in memory, TestbedError for an archive that would grow in it."""
    held = 0
    for path in paths:
        size = path.stat().st_size
        unpacked = _unpacked(path) if is_zipfile(path) else size
        if unpacked > _INFLATES * size + _SMALL:
            raise TestbedError(
                f"{path} has {format_bytes(size)} and unpacks to {format_bytes(unpacked)}, as no weights do; save the"
                " model again"
            )
        held += max(size, unpacked)
    require_memory(held, f"reading {path}", "name a file of the weights alone, without the optimiser's state")


def _unpacked(path: Path) -> int:
    try:
        with ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (BadZipFile, OSError, ValueError, NotImplementedError):
        return 0  # told where it is read


def refuse_raw_bytes(path: Path) -> None:
    """Raises TestbedError for a pickle with a bytearray, of which a few bytes can ask for any amount of memory."""
    try:
        if is_zipfile(path):
            with ZipFile(path) as archive:
                has_raw = any(_RAW in archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))
        else:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                has_raw = content.find(_RAW) >= 0
    except (BadZipFile, OSError, ValueError, NotImplementedError, zlib.error):
        return  # told where it is read
    if has_raw:
        raise TestbedError(f"{path} holds raw bytes (a bytearray) beside tensors; save model.state_dict() alone")


def plain_dtype(name: object, *rest: object) -> np.dtype:
    """``numpy.dtype`` of the pickles of NumPy's scalars, but for sizes that a name can tell ("V2000000000")."""
    if not isinstance(name, str) or np.dtype(name).kind not in "biufc":
        raise ValueError("no plain number")
    return np.dtype(name)


def check_nesting(path: Path, content: Any) -> None:
    """Raises TestbedError for dicts within dicts, as no training script writes them: each deep, or shared by many."""
    left, entries = [(content, 0)], 0
    while left:
        outer, depth = left.pop()
        if isinstance(outer, Mapping):
            entries += len(outer)
            if depth > _DEEPEST or entries > _MOST_ENTRIES:
                raise TestbedError(f"{path} nests its entries too deep or too often; save model.state_dict() alone")
            left.extend((inner, depth + 1) for inner in outer.values())


def check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises TestbedError for tensors that hold no plain weights, by name, with what to save instead; UsageError for more
    than fit in memory as float32."""
    wrong = [f"{name} ({t.dtype})" for name, t in tensors.items() if t.dtype not in _FLOATS]
    if wrong:
        raise TestbedError(
            f"{path}: weights must be float32, float16 or bfloat16; these are not: {listed(wrong)}; save them as"
            " float32 (quantised ones: before quantisation)"
        )
    without = [name for name, t in tensors.items() if t.is_meta]
    if without:
        raise TestbedError(
            f"{path}: these tensors have a shape but no values (device 'meta'): {listed(without)}; load the model's weights,"
            " then save it again"
        )
    sparse = [name for name, t in tensors.items() if t.layout != torch.strided or t.is_nested]
    if sparse:
        raise TestbedError(
            f"{path}: these weights are sparse or nested: {listed(sparse)}; save them as tensor.to_dense()"
        )
    repeated = [
        f"{name} ({t.numel():,} numbers of {t.untyped_storage().nbytes() // t.element_size():,} stored)"
        for name, t in tensors.items()
        if t.numel() > _REPEATED and t.numel() * t.element_size() > t.untyped_storage().nbytes()
    ]
    if repeated:
        raise TestbedError(
            f"{path}: these tensors repeat what is stored (expand): {listed(repeated)}; save tensor.contiguous(), if they are"
            " weights at all"
        )
    needed = sum(t.numel() for t in tensors.values()) * 4
    require_memory(needed, f"the weights of {path} as float32", "take a smaller model or a larger machine")
