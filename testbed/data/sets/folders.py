"""Image files in class folders, in the order of torchvision's ImageFolder: classes by name, files by path."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from testbed.core.errors import TestbedError, UsageError
from testbed.data.collection import Collection, Examples, FileImages
from testbed.data.registry import Request, register
from testbed.data.warn_once import warn_once

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files that torchvision's ImageFolder takes."""
LEFT_OUT = "left-out.txt"
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
    """The images below ``folder/<class>/``; labels index ``classes``, ids are paths relative to ``base``.

    Listed are the files that torchvision's ImageFolder lists, in its order, without hidden ones; links are followed, but
    for those to a folder above them, which would never end.
    """
    names = class_names(folder)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise TestbedError(f"{folder / unknown[0]} is not one of the {len(classes)} known classes; take it out")
    paths: list[Path] = []
    labels: list[int] = []
    other: list[str] = []
    empty: list[str] = []
    left_out = {str(base / name) for name in named_as_left_out(base)}
    for name in names:
        files = [file for file in files_below(folder / name) if not is_hidden(os.path.basename(file))]
        images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES) and file not in left_out]
        other += [file for file in files if Path(file).suffix.lower() in _OTHER_IMAGES]
        empty += [] if images else [name]
        paths += map(Path, images)
        labels += [classes.index(name)] * len(images)
    if empty:
        raise TestbedError(f"{folder}: no images in class folder {', '.join(empty)}; fill it or take it out")
    if other:
        warn_once(
            log, f"{folder}: {len(other)} files are left out, such as {other[0]}: convert them to PNG to have them read"
        )
    ids = [path.relative_to(base).as_posix() for path in paths]
    if odd := next((name for name in ids if not _is_unicode(name)), None):
        raise TestbedError(f"{folder}: the file name {odd!r} is not UTF-8; rename it")
    return Examples(ids, np.array(labels), FileImages(paths))


def named_as_left_out(base: Path) -> list[str]:
    """What the user has said to leave out: ids in the file `LEFT_OUT` of a data set's folder, one a line; told once.

    Raises TestbedError for a file that cannot be read.
    """
    path = base / LEFT_OUT
    try:
        names = [name for name in path.read_text(encoding="utf-8").splitlines() if name.strip()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise TestbedError(
            f"{path} cannot be read ({error}); give a text file, one image a line, or remove it"
        ) from error
    warn_once(log, f"{path} names {len(names)} images, which are left out")
    return names


def files_below(folder: Path) -> list[str]:
    """Paths of the files below, by folder and then by name."""
    listed: list[tuple[str, list[str]]] = []
    start = os.path.realpath(folder)
    above = {str(folder): frozenset([start, *map(str, Path(start).parents)])}
    for root, folders, files in os.walk(folder, followlinks=True):
        listed.append((root, sorted(files)))
        inside = above.pop(root)
        kept = []
        for name in folders:
            path = os.path.join(root, name)
            real = os.path.realpath(path)
            if real in inside:
                warn_once(log, f"{path} is a link to a folder that it lies in, and is left out")
            elif not is_hidden(name):
                above[path] = inside | {real}
                kept.append(name)
        folders[:] = kept
    return [os.path.join(root, name) for root, names in sorted(listed) for name in names]


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
