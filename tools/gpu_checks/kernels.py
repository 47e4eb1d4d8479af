"""The fault kernels: every number format and operation against the NumPy reference, bit for bit; speed against a copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from testbed import TestbedError
from testbed.engines import cuda, native
from testbed.testing import Format, as_words, corrupt, format_named, masks_for

from . import build
from .common import Section, Setting

DTYPES = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int32": np.dtype(np.int32),
}
# Of the floating formats: NaNs, quiet and signalling, with payloads; infinities; zeros; the smallest denormals; ones.
CORNERS = {
    32: (0x7FC00001, 0xFFC12345, 0x7F800001, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x80000001, 0x3F800000),
    16: (0x7E01, 0xFF81, 0x7C01, 0x7C00, 0xFC00, 0, 0x8000, 1, 0x8001, 0x3C00, 0x7F81, 0x7F80),
    8: (0, 0x80, 0xFF, 0x7F, 1),
}
Op = Literal["flip", "stuck0", "stuck1", "random", "identity"]
OPS: tuple[Op, ...] = ("flip", "stuck0", "stuck1", "random")
Words = NDArray[np.uint32]
Apply = Callable[[NDArray, NDArray[np.int64], Words, Words, Words], NDArray]
"""(values, indices, and, or, xor) -> the values with all faults applied, in their order."""


def kernels(setting: Setting) -> Section:
    """The host's kernel, then the GPU's: lists of faults, ports, large tensors, what must be refused, speed.

    Without a GPU the CUDA kernels are the same source compiled for the host. 0 mismatches is the only good number.
    """
    found: Section = {"kernel": "cuda" if setting.gpu else "cuda, emulated on the host"}
    parts: dict[str, Callable[[], Section]] = {
        "cpu_kernel": lambda: {**build.use_cpu_kernels(), **numerics(_apply_on_host, _elements(setting))},
        "build": lambda: {"ok": True, **build.use_cuda_kernels(setting.gpu)},
        "numerics": lambda: _on_device(lambda device: numerics(applied_by(device), _elements(setting))),
        "ports": lambda: _on_device(lambda device: ports(device, setting.quick)),
        "refused": lambda: _on_device(refused),
        "bandwidth": lambda: bandwidth(setting),
    }
    for name, part in parts.items():
        try:
            found[name] = part()
        except TestbedError as error:
            found[name] = {"ok": False, "reason": str(error)}
        setting.tell(found)
        if name == "build" and not found[name]["ok"]:
            break
    failed = [f"{name}: {found[name]['reason']}" for name in parts if name in found and not found[name]["ok"]]
    return {"ok": not failed, **({"reason": "; ".join(failed)} if failed else {}), **found}


def _elements(setting: Setting) -> int:
    return 64 if setting.quick else 1 << 14


def _on_device(part: Callable[[cuda.Device], Section]) -> Section:
    """In a block of its own, which frees what the part allocated."""
    with cuda.Device() as device:
        return part(device)


def applied_by(device: cuda.Device) -> Apply:
    def apply(values: NDArray, indices: NDArray[np.int64], *masks: Words) -> NDArray:
        buffer = device.upload(values)
        cuda.apply_faults_on_device(device, buffer, indices, *masks)
        return device.download(buffer)

    return apply


def numerics(apply: Apply, elements: int) -> Section:
    """Faults and mismatching words per format and operation."""
    formats = _counted(apply, elements)
    wrong = sum(count["mismatches"] for operations in formats.values() for count in operations.values())
    found: Section = {"ok": not wrong, "formats": formats}
    return found | ({"reason": f"{wrong} words are not those of the NumPy reference"} if wrong else {})


def ports(device: cuda.Device, quick: bool) -> Section:
    """One port on a batch, from one element to tensors as large as a ViT-Base's, and one beyond 2^31 elements."""
    shapes = [(1, 1, 1), (300, 3, 37), (7, 64, 5)] + ([] if quick else [(64, 4, 197 * 768), (512, 4, 197 * 768)])
    counted: list[dict[str, Any]] = [
        {"format": name, "rows": rows, "slots": slots, "elements": elements, "mismatches": wrong}
        for rows, slots, elements in shapes
        for name, dtype in DTYPES.items()
        for wrong in [_freed(device, partial(_port_mismatches, device, dtype, rows, slots, elements))]
    ]
    if not quick:
        wrong = _freed(device, lambda: mismatches_far_out(device))
        counted.append({"format": "int8", "rows": 3, "slots": 2, "elements": 1 << 30, "mismatches": wrong})
    wrong = sum(count["mismatches"] for count in counted)
    found: Section = {"ok": not wrong, "tried": counted}
    return found | ({"reason": f"{wrong} words are not those of the NumPy reference"} if wrong else {})


def _freed(device: cuda.Device, count: Callable[[], int]) -> int:
    """What was allocated for it is freed: buffers may be large."""
    with device.scope():
        return count()


def refused(device: cuda.Device) -> Section:
    """A fault past the end is refused, and nothing but the good one is written."""
    good = _refuses(device)
    return {"ok": good, **({} if good else {"reason": "a fault past the end was not refused, or wrote something"})}


def _apply_on_host(values: NDArray, indices: NDArray[np.int64], *masks: Words) -> NDArray:
    faulty = values.copy()
    native.apply_faults(faulty, indices, *masks)
    return faulty


def _counted(apply: Apply, elements: int) -> dict[str, dict[str, dict[str, int]]]:
    """format -> operation -> faults and mismatches."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name, dtype in DTYPES.items():
        rng = np.random.default_rng([elements, len(counts)])
        counts[name] = {op: {"faults": 0, "mismatches": 0} for op in (*OPS, "identity", "repeated")}
        for op, indices, and_, or_, xor in _fault_lists(format_named(name), elements, rng):
            values = _values(dtype, elements, rng)
            found, wanted = apply(values, indices, and_, or_, xor), _reference(values, indices, and_, or_, xor)
            counts[name][op]["faults"] += len(indices)
            counts[name][op]["mismatches"] += int((as_words(found) != as_words(wanted)).sum())
    return counts


def _fault_lists(
    kind: Format, elements: int, rng: np.random.Generator
) -> Iterator[tuple[str, NDArray[np.int64], Words, Words, Words]]:
    """Every operation on every bit, on half of the elements; and all operations on few elements, many times each."""
    half = elements // 2
    ops: tuple[Op, ...] = (*OPS, "identity")
    for op in ops:
        for bit in range(kind.bits) if op in ("flip", "stuck0", "stuck1") else (None,):
            words = rng.integers(0, 1 << kind.bits, half) if op == "random" else np.zeros(1, np.int64)
            masks = np.array([masks_for(op, kind, bit, int(word)) for word in words], np.int64).astype(np.uint32)
            keep, put, turn = (np.broadcast_to(mask, half) for mask in masks.T)
            yield op, rng.permutation(elements)[:half], keep, put, turn
    repeated = rng.integers(0, 1 << 32, (3, half), np.int64).astype(np.uint32)
    yield "repeated", rng.integers(0, min(8, elements), half), repeated[0], repeated[1], repeated[2]


def _values(dtype: np.dtype, elements: int, rng: np.random.Generator) -> NDArray:
    bits = 8 * dtype.itemsize
    words = rng.integers(0, 1 << bits, elements).astype(f"u{dtype.itemsize}")
    corners = CORNERS[bits][:elements]
    words[: len(corners)] = corners
    return words.view(dtype)


def _reference(values: NDArray, indices: NDArray[np.int64], *masks: Words) -> NDArray:
    """One fault after the other where an element is struck twice; else all at once, which is the same."""
    faulty = values.copy()
    if len(np.unique(indices)) == len(indices):
        faulty[indices] = corrupt(faulty[indices], *masks)
        return faulty
    for index, *mask in zip(indices, *masks, strict=True):
        faulty[index : index + 1] = corrupt(faulty[index : index + 1], *mask)
    return faulty


def _port_mismatches(device: cuda.Device, dtype: np.dtype, rows: int, slots: int, elements: int, port: int = 7) -> int:
    """One port on a batch, a third of the faults another port's: words that differ, after and ``current``."""
    rng = np.random.default_rng([dtype.itemsize, rows, slots, elements])
    values = _values(dtype, rows * elements, rng).reshape(rows, elements)
    site = np.where(rng.random((rows, slots)) < 2 / 3, port, port + 1)
    index = rng.integers(0, elements, (rows, slots))
    masks = rng.integers(0, 1 << 32, (3, rows, slots), np.int64).astype(np.uint32)
    wanted, current = values.copy(), np.zeros((rows, slots), dtype)
    for row, slot in np.argwhere(site == port):
        place = slice(index[row, slot], index[row, slot] + 1)
        current[row, slot] = values[row, place][0]
        wanted[row, place] = corrupt(wanted[row, place], *masks[:, row, slot])
    buffer = device.upload(values)
    faults = cuda.upload_faults(device, elements, index, masks[0], masks[1], masks[2], site, port)
    told = cuda.inject_at_port_on_device(device, buffer, faults)
    pairs = ((device.download(buffer), wanted), (told, current))
    return sum(int((as_words(a) != as_words(b)).sum()) for a, b in pairs)


def mismatches_far_out(device: cuda.Device, rows: int = 3, elements: int = 1 << 30) -> int:
    """More than 2^31 elements in one tensor, the first and the last of each row struck."""
    index = np.tile(np.array([0, elements - 1], np.int64), (rows, 1))
    flip = np.arange(1, 2 * rows + 1, dtype=np.uint32).reshape(rows, 2)
    buffer = device.upload(np.zeros((rows, elements), np.int8))
    cuda.inject_at_port_on_device(device, buffer, cuda.upload_faults(device, elements, index, 2**32 - 1, 0, flip))
    found = device.download(buffer)
    wrong = np.take_along_axis(found, index, 1) != flip.astype(np.int8)
    return int(wrong.sum()) + abs(int(np.count_nonzero(found)) - flip.size)


def _refuses(device: cuda.Device) -> bool:
    buffer = device.upload(np.zeros(6, np.int8))
    try:
        cuda.apply_faults_on_device(device, buffer, [6, 5, -1], 0, 9, 0)
    except TestbedError:
        return device.download(buffer).tolist() == [0, 0, 0, 0, 0, 9]
    return False


def bandwidth(setting: Setting) -> Section:
    """Bytes per second where every element of a buffer is struck, against a copy of a buffer from device to device.

    Bytes of a strike: the element read and written, its index (8) and its masks (12). Times are the host's, over many
    launches that end in one wait for the device; on the emulation they say nothing but that the code runs.
    """
    elements, launches = (1 << 10, 3) if setting.quick else (1 << 24, 50)
    found: list[Section] = []
    with cuda.Device() as device:
        for name, dtype in DTYPES.items():
            values, target = device.upload(np.zeros((elements, 1), dtype)), device.empty((elements, 1), dtype)
            index = np.zeros((elements, 1), np.int64)  # one element in a row
            faults = cuda.upload_faults(device, 1, index, 2**32 - 1, 0, 1)
            one = device.upload(np.zeros((1, 1), dtype))
            alone = cuda.upload_faults(device, 1, np.zeros((1, 1), np.int64), 2**32 - 1, 0, 1)
            copy_s = _seconds(device, launches, partial(cuda.copy, target, values))
            inject_s = _seconds(device, launches, partial(cuda.launch, values, faults))
            launch_s = _seconds(device, launches, partial(cuda.launch, one, alone))
            copy, injection = 2 * values.nbytes / copy_s, (2 * values.nbytes + 20 * elements) / inject_s
            found.append(
                {
                    "format": name,
                    "elements": elements,
                    "copy_gb_per_s": copy / 1e9,
                    "strike_gb_per_s": injection / 1e9,
                    "ratio": injection / copy,
                    "strikes_per_s": elements / inject_s,
                    "single_launch_us": launch_s * 1e6,
                }
            )
    return {"ok": True, "launches": launches, "formats": found}


def _seconds(device: cuda.Device, launches: int, launch: Callable[[], None]) -> float:
    """Per launch."""
    for _ in range(3):
        launch()
    device.synchronize()
    start = time.perf_counter()
    for _ in range(launches):
        launch()
    device.synchronize()
    return (time.perf_counter() - start) / launches
