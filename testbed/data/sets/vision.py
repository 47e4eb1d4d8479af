"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, in the files and folders that torchvision knows, or, of those that
the operating system packages, in its own.

torchvision is imported only when one of them is used: it takes seconds, and the digits do not need it.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from testbed.core.errors import TestbedError
from testbed.data.collection import Collection, Examples
from testbed.data.registry import Request, data_root, register
from testbed.data.sets.fetch import fetch_folder
from testbed.data.sets.system import read_idx, system_folder

_MNIST_FILES = tuple(
    f"raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
_SYSTEM_FILES = tuple(
    f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
_READ_FAULTS = (RuntimeError, AssertionError, ValueError, LookupError, TypeError, EOFError, OSError, pickle.PickleError)


@dataclass(frozen=True)
class _Vision:
    """One data set of torchvision: its class there, its folder under the data root, and the files inside.

    ``classes``: its class names, where the files do not tell them and a package of the system may bring them.
    """

    name: str
    torchvision_name: str
    folder: str
    files: tuple[str, ...]
    note: str
    classes: tuple[str, ...] = ()

    def needs(self, root: Path) -> list[Path]:
        own = [root / self.folder / file for file in self.files]
        if root == data_root() and not all(file.exists() for file in own) and (system := self.system_folder()):
            return [system / file for file in _SYSTEM_FILES]
        return own

    def system_folder(self) -> Path | None:
        """Where a package of the operating system put it."""
        return system_folder(self.name, _SYSTEM_FILES) if self.classes else None

    def fetch(self, request: Request) -> None:
        fetch_folder(request.root / self.folder, lambda root: self._torchvision_class()(root, download=True))

    def load(self, request: Request) -> Collection:
        """Ids are ``<name>/train/NNNNN`` and ``<name>/test/NNNNN``, the row in torchvision's order."""
        folder = self.needs(request.root)[0].parent
        if folder == self.system_folder():
            return self._load_system(folder)
        try:
            train, test = (self._torchvision_class()(request.root, train=part) for part in (True, False))
        except _READ_FAULTS as error:
            raise TestbedError(
                f"data set {self.name!r}: the files in {request.root / self.folder} are damaged ({error}):"
                f" move that folder away and fetch it again with 'testbed data check {self.name} --download'"
            ) from error
        return Collection(
            classes=list(test.classes),
            train=_examples(f"{self.name}/train", train),
            test=_examples(f"{self.name}/test", test),
            preprocess=self.name,
        )

    def _load_system(self, folder: Path) -> Collection:
        def part(name: str, files: str) -> Examples:
            images, labels = (read_idx(folder / f"{files}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
            return Examples.from_arrays(f"{self.name}/{name}", images, labels.astype(np.int64))

        try:
            train, test = part("train", "train"), part("test", "t10k")
        except _READ_FAULTS as error:
            raise TestbedError(
                f"data set {self.name!r}: the files in {folder} are damaged ({error}): install their package again"
            ) from error
        return Collection(classes=list(self.classes), train=train, test=test, preprocess=self.name)

    def _torchvision_class(self) -> Any:
        from testbed.data.torchvision_import import datasets

        return getattr(datasets, self.torchvision_name)


def _examples(name: str, source: Any) -> Examples:
    return Examples.from_arrays(name, np.asarray(source.data), np.asarray(source.targets))


for _vision in (
    _Vision("mnist", "MNIST", "MNIST", _MNIST_FILES, "handwritten digits, 28 x 28"),
    _Vision(
        "fashion-mnist",
        "FashionMNIST",
        "FashionMNIST",
        _MNIST_FILES,
        "articles of clothing, 28 x 28",
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    # torchvision unpickles these, after it has checked that each is the published file, by its MD5
    _Vision(
        "cifar10",
        "CIFAR10",
        "cifar-10-batches-py",
        (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
        "10 kinds of things, 32 x 32, colour",
    ),
    _Vision(
        "cifar100", "CIFAR100", "cifar-100-python", ("train", "test", "meta"), "100 kinds of things, 32 x 32, colour"
    ),
):
    register(_vision.name, needs=_vision.needs, fetch=_vision.fetch, note=_vision.note)(_vision.load)
