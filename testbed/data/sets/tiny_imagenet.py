"""Tiny-ImageNet: 200 classes, 64 x 64, in the layout of its published zip file.

tiny-imagenet-200/wnids.txt                             the 200 class names
tiny-imagenet-200/words.txt                             class name -> words
tiny-imagenet-200/train/<wnid>/images/*.JPEG
tiny-imagenet-200/val/images/*.JPEG, val_annotations.txt
tiny-imagenet-200/test                                  has no labels, not used
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from testbed.core.errors import TestbedError
from testbed.data.collection import Collection, Examples, FileImages
from testbed.data.registry import Request, register
from testbed.data.sets.fetch import fetch_folder
from testbed.data.sets.folders import class_folders

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def _needs(root: Path) -> list[Path]:
    parts = ("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images")
    return [root / FOLDER / part for part in parts]


def _fetch(request: Request) -> None:
    from testbed.data.torchvision_import import datasets

    fetch_folder(request.root / FOLDER, lambda root: datasets.utils.download_and_extract_archive(URL, root, md5=MD5))


@register("tiny-imagenet", needs=_needs, fetch=_fetch, note="200 kinds of things, 64 x 64, colour")
def tiny_imagenet(request: Request) -> Collection:
    """The published validation part is the test split (the test part has no labels). Labels index the sorted class
    folders, as ImageFolder does, not the order of wnids.txt. Ids are ``train/<wnid>/images/<file>``, ``val/<file>``."""
    folder = request.root / FOLDER
    wnids = sorted((folder / "wnids.txt").read_text(errors="replace").split())
    words = dict(
        line.split("\t", 1) for line in (folder / "words.txt").read_text(errors="replace").splitlines() if "\t" in line
    )
    absent = [wnid for wnid in wnids if not (folder / "train" / wnid).is_dir()]
    if absent:
        raise TestbedError(f"{folder / 'train' / absent[0]} is missing but in wnids.txt; unpack the zip again")
    return Collection(
        classes=[words.get(wnid, wnid).partition(",")[0] for wnid in wnids],
        train=class_folders(folder / "train", wnids, folder),
        test=_annotated(folder / "val", wnids),
        preprocess="tiny-imagenet",
        folders=wnids,
    )


def _annotated(folder: Path, wnids: list[str]) -> Examples:
    """The images that val_annotations.txt names, in its order. Each line: file, wnid, and a box that is not used."""
    table = folder / "val_annotations.txt"
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    files, labels = [], []
    for number, line in enumerate(table.read_text(errors="replace").splitlines(), start=1):
        file, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in label_of:
            raise TestbedError(f"{table}, line {number}: {wnid!r} is not a class of wnids.txt; unpack the zip again")
        files.append(file)
        labels.append(label_of[wnid])
    present = {path.name for path in (folder / "images").iterdir()}
    if present != set(files):
        example = min(present ^ set(files))
        raise TestbedError(f"{folder / 'images'} and {table.name} do not match, see {example!r}; unpack the zip again")
    paths = [folder / "images" / file for file in files]
    return Examples([f"val/{file}" for file in files], np.array(labels), FileImages(paths))
