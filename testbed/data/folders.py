"""Image files in class folders, in the order of torchvision's ImageFolder: classes by name, files by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from testbed.core.errors import TestbedError, UsageError
from testbed.data.collection import Collection, Examples, FileImages
from testbed.data.registry import Request, register

_PARTS = ("train", "test", "val")


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
        )
    classes = class_names(path)
    if set(classes) <= set(_PARTS):
        raise UsageError(
            f"{path} holds only {', '.join(parts)}: a data set has train/ and test/ (or val/);"
            f" for a test-only one write imagefolder:{path / parts[0]}"
        )
    return Collection(classes=classes, test=class_folders(path, classes, path))


def class_names(folder: Path) -> list[str]:
    """The class folders, sorted. Raises TestbedError where there are none."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise TestbedError(f"cannot read folder {folder}: {error.strerror}; name a folder of class folders") from error
    if not names:
        raise TestbedError(f"{folder} holds no class folders; put each class's images into a folder of its own")
    return names


def class_folders(folder: Path, classes: list[str], base: Path) -> Examples:
    """The images below ``folder/<class>/``; labels index ``classes``, ids are paths relative to ``base``."""
    from testbed.data._torchvision import datasets

    unknown = sorted(set(class_names(folder)) - set(classes))
    if unknown:
        raise TestbedError(f"{folder / unknown[0]} is not one of the {len(classes)} known classes; take it out")
    try:
        found = datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        empty = str(error).partition("classes ")[2].partition(". ")[0] or str(error)
        raise TestbedError(f"{folder}: no images in class folder {empty}; fill it or take it out") from error
    paths = [Path(path) for path, _ in found.samples]
    to_label = np.array([classes.index(name) for name in found.classes])
    ids = [path.relative_to(base).as_posix() for path in paths]
    return Examples(ids, to_label[found.targets], FileImages(paths))
