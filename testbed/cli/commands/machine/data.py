"""``testbed data``: what is where, what is missing, and how to get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import Command, console, emit, example, json_option
from testbed.cli.groups import CommandGroup
from testbed.cli.options.data import classes_option, preprocess_option
from testbed.core.errors import TestbedError, UsageError

if TYPE_CHECKING:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.data import Dataset
    from testbed.data.registry import DatasetEntry


_MOST_DECODED = 200
_MOST_OPENED = {"test": 20_000, "validation": 2_000, "train": 2_000}  # files, evenly spread: a few seconds


def root_option(command: Command) -> Command:
    """``--root``, passed on as ``root``."""
    text = (
        "The data folder; by default $TESTBED_DATA, else data/ in the cache folder ($TESTBED_CACHE, ~/.cache/testbed)."
    )
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option("--root", type=kind, metavar="DIR", help=text)(command)


@dataclass(frozen=True)
class ListedDataset:
    """A known data set. here: None where it takes a path; where: its folder, None where it needs none; get: how to get
    what is missing."""

    name: str
    here: bool | None
    where: str | None
    missing: list[str]
    note: str
    get: str

    def to_json(self) -> dict[str, bool | str | list[str] | None]:
        return {
            "name": self.name,
            "found": self.here,
            "where": self.where,
            "missing": self.missing,
            "note": self.note,
            "get": self.get,
        }


@click.group(cls=CommandGroup, epilog=example("testbed data list", "testbed data check cifar10 --download"))
def data() -> None:
    """List data sets and prepare them."""


@data.command("list", epilog=example("testbed data list --root photos"))
@root_option
@json_option
def list_(root: Path | None, as_json: bool) -> None:
    """Say which data sets are known, where they are, and how to get those that are missing."""
    from testbed.data.registry import data_root, entries, how_to_get, missing

    folder = data_root(root)
    known = []
    for name, entry in entries().items():
        absent = missing(entry, folder, None)
        known.append(
            ListedDataset(
                name + ":PATH" * entry.takes_path,
                None if entry.takes_path else not absent,
                _where(entry, folder),
                [str(path) for path in absent],
                entry.note,
                how_to_get(name, entry, folder) if absent else "",
            )
        )
    emit({"root": str(folder), "data_sets": known}, as_json, lambda: _datasets_table(folder, known))


@data.command(
    epilog=example(
        "testbed data check imagefolder:photos/test --full",
        "testbed data check imagefolder:photos/test --preprocess imagenet,crop=0.9,interpolation=bicubic",
        "testbed data check imagefolder:photos/test --classes natural",
    )
)
@click.argument("name")
@root_option
@click.option("--download", is_flag=True, help="Fetch the files if they are missing.")
@click.option("--full", is_flag=True, help="Decode every image and hash the contents.")
@click.option(
    "--leave-out",
    is_flag=True,
    help="With --full: write the names of the files that cannot be decoded to left-out.txt in the folder of"
    " imagefolder:PATH; images that are named there are left out from then on, and that is told.",
)
@preprocess_option("the data set's own")
@classes_option
@json_option
def check(
    name: str,
    root: Path | None,
    download: bool,
    full: bool,
    leave_out: bool,
    preprocess: str | None,
    classes: str | None,
    as_json: bool,
) -> None:
    """Load data set NAME and say what is in it, or what is missing. Exit status 1 where it cannot be used."""
    from testbed.data.registry import data_root, find, how_to_get, load, missing

    entry, path = find(name)
    if leave_out and (not full or path is None or not name.startswith("imagefolder:")):
        raise UsageError("--leave-out goes with --full and imagefolder:PATH; it decodes all images of that folder")
    folder = data_root(root)
    absent = missing(entry, folder, path)
    if absent and as_json and not download:
        lacking = {"name": name, "root": str(folder), "found": False, "missing": [str(p) for p in absent]}
        emit(lacking | {"get": how_to_get(name, entry, folder)}, as_json, str)
    dataset = load(name, root=root, preprocess=preprocess, classes=classes, download=download)
    bad = _undecodable(dataset) if full else {}
    if bad and leave_out and path is not None:
        _write_left_out(path, list(bad))
        dataset = load(name, root=root, preprocess=preprocess, classes=classes)
    elif bad:
        raise TestbedError(_all_bad(list(bad.values()), path is not None))
    report = {"root": str(folder), "found": True, "missing": []} | dataset.describe().to_json()
    if full:
        splits = {part: getattr(dataset, part) for part in ("train", "validation", "test")}
        hashes = {part: split.sha256() if len(split) else None for part, split in splits.items()}
        emit(report | {"sha256": hashes}, as_json, lambda: [*_dataset_lines(dataset), *_hash_lines(hashes)])
    else:
        opened, decoded = _open_files(dataset), _read_some(dataset)
        report |= {"opened": opened, "decoded": decoded}
        emit(report, as_json, lambda: [*_dataset_lines(dataset), _decoded_line(dataset, opened, decoded)])


def _where(entry: DatasetEntry, root: Path) -> str | None:
    """The folder of the data set's first file; None where it needs none, or takes a path."""
    needed = [] if entry.takes_path else entry.needs(root)
    return str(needed[0].parent) if needed else None


def _read_some(dataset: Dataset) -> int:
    """Decodes the first test image of each class, of the first classes; returns how many."""
    import numpy as np

    firsts = np.unique(dataset.test.labels, return_index=True)[1][:_MOST_DECODED]
    for position in firsts.tolist():
        dataset.test.pixels(position)
    return len(firsts)


def _open_files(dataset: Dataset) -> int | None:
    """How many files of all parts begin as images; None where images are no files. Raises TestbedError for one that does
    not."""
    import numpy as np

    from testbed.data.collection import FileImages

    opened, bad = 0, []
    for part, most in _MOST_OPENED.items():
        split = getattr(dataset, part)
        images = split.examples.images
        if not isinstance(images, FileImages):
            return None
        rows = split.rows[np.linspace(0, len(split) - 1, min(len(split), most)).astype(int)]
        bad += [images.paths[row] for row in rows.tolist() if not images.is_image(row)]
        opened += len(rows)
    if bad:
        more = f" ({len(bad) - 1} more of {opened:,} files cannot, either)" if len(bad) > 1 else ""
        raise TestbedError(f"image {bad[0]} cannot be decoded{more}: replace the files or take them out of the folder")
    return opened


def _undecodable(dataset: Dataset) -> dict[str, str]:
    """Images that cannot be decoded, every one being tried: id -> what is wrong."""
    from rich.progress import track

    bad: dict[str, str] = {}
    for part in ("train", "validation", "test"):
        split = getattr(dataset, part)
        for position in track(range(len(split)), description=part, console=console(stderr=True), transient=True):
            try:
                split.pixels(position)
            except TestbedError as error:
                bad[split.ids[position]] = str(error)
    return bad


def _all_bad(messages: list[str], is_folder: bool) -> str:
    more = f" ({len(messages) - 1} more cannot be used, either)" if len(messages) > 1 else ""
    instead = "; or leave such files out: --full --leave-out" if is_folder else ""
    return f"{messages[0]}{more}{instead}"


def _write_left_out(folder: Path, names: list[str]) -> None:
    """Raises UsageError for a name that a line cannot hold."""
    from testbed.core.folder.files import write_text
    from testbed.data.sets.folders import LEFT_OUT, named_as_left_out

    if odd := next((name for name in names if name.splitlines() != [name]), None):
        raise UsageError(
            f"image {odd!r} has a line break in its name and cannot be left out by name; rename or remove it"
        )
    write_text(folder / LEFT_OUT, "".join(f"{name}\n" for name in [*named_as_left_out(folder), *names]))


def _datasets_table(root: Path, known: list[ListedDataset]) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable("name", "here", "what, or how to get it", title=f"data folder: {root}", boxed=False)
    for entry in known:
        here = {True: "yes", False: "no", None: ""}[entry.here]
        table.add_row(entry.name, here, entry.note)
        if entry.here and entry.where and not Path(entry.where).is_relative_to(root):
            table.add_row("", "", f"in {entry.where}")
        if entry.get:
            table.add_row("", "", entry.get)
    return table


def _dataset_lines(dataset: Dataset) -> list[str]:
    shown = ", ".join(dataset.classes[:10]) + (", ..." if len(dataset.classes) > 10 else "")
    return [
        f"{dataset.name}: {len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test images",
        f"  model input {dataset.channels} x {dataset.image} x {dataset.image}",
        f"  {len(dataset.classes)} classes: {shown}",
        f"  preprocess {dataset.preprocess.one_line(dataset.image)}",
    ]


def _decoded_line(dataset: Dataset, opened: int | None, decoded: int) -> str:
    files = sum(map(len, (dataset.train, dataset.validation, dataset.test)))
    begun = "" if opened is None else f", {opened:,} of {files:,} files begin as images"
    return f"  {decoded} of {len(dataset.test):,} test images were decoded{begun}; --full decodes all"


def _hash_lines(hashes: Mapping[str, str | None]) -> list[str]:
    return [f"  sha256 {part}: {digest}" for part, digest in hashes.items() if digest]
