"""Image files in class folders, in the order of torchvision's ImageFolder: classes by name, files by path."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from testbed.core.errors import TestbedError, UsageError
from testbed.data.collection import Collection, Examples, FileImages
from testbed.data.registry import Request, register
from testbed.data.warn_once import warn_once

log = logging.getLogger(__name__)

_PARTS = ("train", "test", "val")
_OTHER_PARTS = {"training", "testing", "valid", "validation", "eval", "dev"}  # as other tools name them
_OTHER_IMAGES = {".gif", ".jfif", ".jp2", ".heic", ".heif", ".avif", ".exr", ".npy", ".npz", ".dcm"}  # not read


@register("imagefolder", takes_path=True, note="class folders of images, or train/ and test/ (or val/) of such")
def imagefolder(request: Request) -> Collection:
    """PATH is a folder of class folders, which is a test-only data set, or holds ``train/`` and ``test/`` (``val/``
    is then the validation part), or ``train/`` and ``val/`` (which is then the test part).

    Ids are paths relative to PATH. Images are RGB; the model input's side is that of the first test image, unless
    another is asked for.
    """
    assert request.path is not None
    path = request.path
    parts = [part for part in _PARTS if (path / part).is_dir()]
    if "train" in parts and len(parts) > 1:
        classes = class_names(path / "train")
        test = "test" if "test" in parts else "val"
        return Collection(
            classes=classes,
            train=class_folders(path / "train", classes, path),
            validation=class_folders(path / "val", classes, path) if len(parts) == 3 else None,
            test=class_folders(path / test, classes, path),
            sorted_by_name=True,
        )
    classes = class_names(path)
    if set(classes) <= {*_PARTS, *_OTHER_PARTS} and not set(classes) <= set(_PARTS):
        raise UsageError(
            f"{path} holds {', '.join(classes)}, which are parts and no classes: name them train, test and val, or write"
            f" imagefolder:{path / classes[0]} for one of them"
        )
    if set(classes) <= set(_PARTS):
        raise UsageError(
            f"{path} holds only {', '.join(parts)}: a data set has train/ and test/ (or val/);"
            f" for a test-only one write imagefolder:{path / parts[0]}"
        )
    return Collection(classes=classes, test=class_folders(path, classes, path), sorted_by_name=True)


def class_names(folder: Path) -> list[str]:
    """The class folders, sorted; hidden ones are none (".ipynb_checkpoints", "__MACOSX"), and that is told.

    Raises TestbedError where there are none.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise TestbedError(f"cannot read folder {folder}: {error.strerror}; name a folder of class folders") from error
    hidden = [name for name in names if is_hidden(name)]
    if hidden:
        warn_once(log, f"{folder}: no class but left out: {', '.join(hidden)}")
    if len(hidden) == len(names):
        raise TestbedError(f"{folder} holds no class folders; put each class's images into a folder of its own")
    return [name for name in names if name not in hidden]


def is_hidden(name: str) -> bool:
    """Whether a file is of what notebooks, archives and file systems leave beside the data."""
    return name.startswith((".", "__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN")) or name == "lost+found"


def class_folders(folder: Path, classes: list[str], base: Path) -> Examples:
    """The images below ``folder/<class>/``; labels index ``classes``, ids are paths relative to ``base``."""
    from testbed.data.torchvision_import import datasets

    names = class_names(folder)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise TestbedError(f"{folder / unknown[0]} is not one of the {len(classes)} known classes; take it out")
    other: list[str] = []

    def is_image(path: str) -> bool:
        parts = path.removeprefix(str(folder)).split(os.sep)
        if any(map(is_hidden, parts)):
            return False
        if not path.lower().endswith(datasets.folder.IMG_EXTENSIONS):
            if Path(path).suffix.lower() in _OTHER_IMAGES:
                other.append(path)
            return False
        return True

    class ClassFolders(datasets.ImageFolder):
        def find_classes(self, _directory: Any) -> tuple[list[str], dict[str, int]]:
            return names, {name: index for index, name in enumerate(names)}

    try:
        dataset = ClassFolders(folder, is_valid_file=is_image)
    except FileNotFoundError as error:
        empty = str(error).partition("classes ")[2].partition(". ")[0].rstrip(".") or str(error)
        raise TestbedError(f"{folder}: no images in class folder {empty}; fill it or take it out") from error
    if other:
        warn_once(
            log, f"{folder}: {len(other)} files are left out, such as {other[0]}: convert them to PNG to have them read"
        )
    paths = [Path(path) for path, _ in dataset.samples]
    to_label = np.array([classes.index(name) for name in dataset.classes])
    ids = [path.relative_to(base).as_posix() for path in paths]
    return Examples(ids, to_label[dataset.targets], FileImages(paths))
