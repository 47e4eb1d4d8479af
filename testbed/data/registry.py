"""Every data set by its name: ``load("digits")``, ``load("imagefolder:photos")``, and one's own with ``register``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.cache import cache_folder
from testbed.core.words.nearest import unknown
from testbed.data.classes.order import Classes, ordered
from testbed.data.collection import Collection, Examples
from testbed.data.dataset import Dataset, Split
from testbed.data.plugins import load_plugins
from testbed.data.preprocess.stated import preprocess_asked
from testbed.data.preprocess.steps import Preprocess
from testbed.data.splitting import stratified

VALIDATION_SHARE = 0.10  # of the training images, where a collection brings no validation part
MAX_CLASSES = 2**15 - 1  # labels are stored as int16 in the result rows

# modules that register themselves
_BUILT_IN = ("digits", "vision", "tiny_imagenet", "imagenet_s", "folders", "npz")


@dataclass(frozen=True)
class Request:
    """What a loader is asked for. ``path`` is the text after the colon of the name (``imagefolder:PATH``), if any."""

    name: str
    root: Path
    path: Path | None
    seed: int


Loader = Callable[[Request], Collection]


@dataclass(frozen=True)
class DatasetEntry:
    """``needs`` lists paths under the data root, ``fetch`` downloads them, ``note`` and ``get`` say in a few words what
    the data set is and how else to get it."""

    load: Loader
    needs: Callable[[Path], list[Path]]
    fetch: Callable[[Request], None] | None
    note: str
    get: str
    takes_path: bool


ENTRIES: dict[str, DatasetEntry] = {}


def register(
    name: str,
    *,
    needs: Callable[[Path], list[Path]] = lambda root: [],
    fetch: Callable[[Request], None] | None = None,
    note: str = "",
    get: str = "",
    takes_path: bool = False,
) -> Callable[[Loader], Loader]:
    """Makes one's own data set known by ``name``; import the module before using it, or have the command line do so
    (`testbed.data.plugins`).

    >>> import numpy as np
    >>> from testbed.data import Collection, Examples, load, register
    >>> @register("stripes")
    ... def stripes(request):
    ...     labels = np.arange(40) % 2
    ...     images = np.zeros((40, 8, 8), np.uint8)        # (n, H, W) or (n, H, W, 3); uint8, or float32 in [0, 1]
    ...     images[labels == 0, ::2] = 255
    ...     images[labels == 1, :, ::2] = 255
    ...     whole = Examples.from_arrays("stripes", images, labels)
    ...     return Collection(classes=["rows", "columns"], test=whole)
    >>> load("stripes").test.batch(slice(0, 2)).shape
    (2, 1, 8, 8)
    """

    def added(loader: Loader) -> Loader:
        ENTRIES[name] = DatasetEntry(loader, needs, fetch, note, get, takes_path)
        return loader

    return added


def entries() -> dict[str, DatasetEntry]:
    """List the known data sets: name -> entry; those that take a path last."""
    for module in _BUILT_IN:
        import_module(f"testbed.data.sets.{module}")
    load_plugins()
    return dict(sorted(ENTRIES.items(), key=lambda item: item[1].takes_path))


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the data sets: the argument, else $TESTBED_DATA, else ``data`` in the user's cache folder."""
    return Path(root or os.environ.get("TESTBED_DATA") or cache_folder() / "data").expanduser()


def find(name: str) -> tuple[DatasetEntry, Path | None]:
    """The entry of ``name`` or ``name:PATH``, and that path. Raises UsageError naming the known ones."""
    kind, _, path = name.partition(":")
    known = entries()
    if kind not in known:
        raise UsageError(unknown("data set", kind, [n + ":PATH" * e.takes_path for n, e in known.items()]))
    if known[kind].takes_path != bool(path):
        want = f"write {kind}:PATH" if known[kind].takes_path else f"it takes no path, write {kind!r}"
        raise UsageError(f"data set {name!r}: {want}")
    return known[kind], Path(path).expanduser() if path else None


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    image: int | None = None,
    preprocess: str | Mapping[str, Any] | Preprocess | None = None,
    classes: Classes | None = None,
    seed: int = 0,
    download: bool = False,
) -> Dataset:
    """The data set called ``name``.

    ``root`` is the data folder (see ``data_root``); ``image`` the side of the model input in pixels, by default the one
    that ``preprocess`` states or the data set's own; ``preprocess`` what ``testbed.data.preprocess.stated`` reads (a
    preset's name, stated values, a file), by default the data set's own preset; ``classes`` the order that the labels
    index (``testbed.data.classes.order``: "natural", "text", the names, or a file of them), by default the data set's own;
    ``seed`` decides the splits. Nothing is fetched unless ``download``. Raises UsageError for an unknown name or value,
    TestbedError when files are missing or bad.
    """
    entry, path = find(name)
    request = Request(name, data_root(root), path, seed)
    _ensure(entry, request, download)
    collection = ordered(entry.load(request), classes, name)
    _check_labels(name, collection)
    chosen = preprocess_asked(preprocess or collection.preprocess)
    first = collection.test.images.pixels(0)
    channels = 1 if first.ndim == 2 else first.shape[2]
    chosen.check_channels(channels)
    side = next(s for s in (image, chosen.size, collection.image, min(first.shape[:2])) if s is not None)
    if side < 1:
        raise UsageError(f"image size must be at least 1, not {side}")
    chosen.check_size(side)

    def split(examples: Examples, rows: np.ndarray) -> Split:
        return Split(examples, rows, side, chosen)

    test = split(collection.test, np.arange(len(collection.test.ids)))
    train, validation = _train_and_validation(collection, seed, split)
    return Dataset(
        name, collection.classes, channels, side, train, validation, test, chosen, seed, collection.seeded_test
    )


def missing(entry: DatasetEntry, root: Path, path: Path | None) -> list[Path]:
    """The paths that the data set needs and that are not there."""
    return [needed for needed in ([path] if path else entry.needs(root)) if not needed.exists()]


def how_to_get(name: str, entry: DatasetEntry, root: Path) -> str:
    """One line; empty where nothing needs getting."""
    if entry.fetch:
        where = "" if root == data_root() else f" --root {root}"
        return f"download it with 'testbed data check {name} --download{where}', or put the files under {root}"
    return entry.get


def _ensure(entry: DatasetEntry, request: Request, download: bool) -> None:
    absent = missing(entry, request.root, request.path)
    if absent and download and entry.fetch:
        entry.fetch(request)
        absent = missing(entry, request.root, request.path)
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        fix = how_to_get(request.name, entry, request.root) or "check the path"
        raise TestbedError(f"data set {request.name!r}: {absent[0]}{more} is missing; {fix}")


def _train_and_validation(
    collection: Collection, seed: int, split: Callable[[Examples, np.ndarray], Split]
) -> tuple[Split, Split]:
    if collection.train is None:
        nothing = np.arange(0)
        return split(collection.test, nothing), split(collection.test, nothing)
    rows = np.arange(len(collection.train.ids))
    if collection.validation is not None:
        return split(collection.train, rows), split(collection.validation, np.arange(len(collection.validation.ids)))
    train, validation = stratified(rows, collection.train.labels, VALIDATION_SHARE, seed)
    return split(collection.train, train), split(collection.train, validation)


def _check_labels(name: str, collection: Collection) -> None:
    count = len(collection.classes)
    if not 1 <= count <= MAX_CLASSES:
        raise UsageError(f"data set {name!r}: {count} classes; between 1 and {MAX_CLASSES} are possible")
    for part in ("train", "validation", "test"):
        examples: Examples | None = getattr(collection, part)
        if examples is None:
            continue
        if not len(examples.labels):
            raise UsageError(f"data set {name!r}: its {part} part has no images")
        bad = np.flatnonzero((examples.labels < 0) | (examples.labels >= count))
        if len(bad):
            raise UsageError(
                f"data set {name!r}: label {examples.labels[bad[0]]} of image {examples.ids[bad[0]]!r} is outside"
                f" 0..{count - 1} ({len(bad)} such in {part}); correct the labels or name more classes"
            )
