"""One's own arrays, in a NumPy ``.npz`` file."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from testbed.core.errors import TestbedError, UsageError
from testbed.core.process.resources import format_bytes, require_memory
from testbed.data.collection import Collection, Examples
from testbed.data.registry import Request, register

_PARTS = {"train": "train", "val": "validation", "test": "test"}  # prefix in the file -> part of the collection
_INFLATES, _SMALL = 200, 1 << 26  # images that are nearly all black shrink a hundredfold
_PLAIN = {"images", "labels"}
_SPLIT = {f"{part}_{kind}" for part in _PARTS for kind in _PLAIN}


@register("npz", takes_path=True, note="a NumPy file with images and labels")
def npz(request: Request) -> Collection:
    """Arrays ``images`` and ``labels`` are a test-only data set; ``train_images``, ``train_labels``, ``test_images``,
    ``test_labels`` and, if wanted, ``val_images``, ``val_labels`` (MedMNIST's names) a split one.

    Images are (n, H, W) or (n, H, W, 3): uint8, uint16 (value / 65535), bool or floats in [0, 1]; labels whole numbers
    (n,) or (n, 1). An array ``classes`` of strings names the classes, else they are "0", "1", ... up to the largest
    (training) label. Ids are ``<file>/NNNN`` or ``<file>/<part>/NNNN``. The whole file is held in memory.
    """
    assert request.path is not None
    arrays = _read(request.path)
    stem = request.path.stem
    if set(arrays) - {"classes"} == _PLAIN:
        test = _examples(stem, arrays["images"], arrays["labels"])
        return Collection(classes=_classes(arrays, test), test=test)
    given = [part for part in _PARTS if f"{part}_images" in arrays or f"{part}_labels" in arrays]
    wanted = {f"{part}_{kind}" for part in {"train", "test", *given} for kind in _PLAIN}
    if set(arrays) - {"classes"} != wanted:
        wrong = min((set(arrays) - {"classes"}) ^ wanted)
        raise UsageError(
            f"{request.path}: array {wrong!r} is {'unknown' if wrong in arrays else 'missing'};"
            f" name the arrays images, labels, or {', '.join(sorted(_SPLIT))} (val_ is optional)"
        )
    parts = {
        _PARTS[part]: _examples(f"{stem}/{_PARTS[part]}", arrays[f"{part}_images"], arrays[f"{part}_labels"])
        for part in given
    }
    return Collection(
        classes=_classes(arrays, parts["train"]),
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts["test"],
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        _check_memory(path)
        with open(path, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise TestbedError(f"{path} is not an .npz file; write it with numpy.savez")
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = "holds Python objects" if "allow_pickle" in str(error) else "cannot be read"
        raise TestbedError(f"{path} {why}: write plain arrays with numpy.savez ({error})") from error


def _check_memory(path: Path) -> None:
    """Raises UsageError for arrays that do not fit in memory, TestbedError for headers that claim what is not there."""
    if not zipfile.is_zipfile(path):
        return  # told where it is read
    held = 0
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stored:
                version = npy.read_magic(stored)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(stored)
            claimed = math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and (min(shape, default=1) < 0 or claimed > entry.file_size):
                raise TestbedError(
                    f"{path}: array {entry.filename} claims shape {shape} and holds {format_bytes(entry.file_size)}; write the"
                    " file again"
                )
            held += entry.file_size
            if entry.file_size > _INFLATES * path.stat().st_size + _SMALL:
                raise TestbedError(
                    f"{path}: array {entry.filename} unpacks to {format_bytes(entry.file_size)} of a file of"
                    f" {format_bytes(path.stat().st_size)}, as no images do; write it again with numpy.savez"
                )
    require_memory(held, f"reading {path}", "name fewer images, or an image folder")


def _examples(name: str, images: np.ndarray, labels: np.ndarray) -> Examples:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return Examples.from_arrays(name, images, flat)


def _classes(arrays: dict[str, np.ndarray], training: Examples) -> list[str]:
    if "classes" in arrays:
        stored = arrays["classes"]
        if stored.ndim != 1 or stored.dtype.kind not in "USiu":
            raise UsageError(f"array classes must be names (classes,), not {stored.dtype} {stored.shape}")
        if stored.dtype.kind == "S":
            stored = np.char.decode(stored, "utf-8")
        names = [str(name) for name in stored]
        if twice := next((class_name for class_name in names if names.count(class_name) > 1), None):
            raise UsageError(f"array classes names {twice!r} twice; each of the model's outputs is one class")
        return names
    return [str(label) for label in range(min(int(training.labels.max(initial=0)), 2**16) + 1)]
