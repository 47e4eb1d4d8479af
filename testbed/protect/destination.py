"""Where a protected model is written to: looked at before anything is measured, which can take long."""

from __future__ import annotations

import tempfile
from pathlib import Path

from testbed.core.errors import UsageError
from testbed.core.folder.manifest import MANIFEST


def check_new_file(to: Path) -> None:
    """Raises UsageError for a path that is taken, or where nothing can be written."""
    if to.exists():
        raise UsageError(f"{to} is there already; name another file with --to")
    _check_writable(to.parent, to)


def check_new_folder(source: Path, to: Path) -> None:
    """Raises UsageError for a folder that is no run's, the plain model's own or inside it, or that cannot be written to.

    source: folder of the plain model.
    """
    if to.resolve() == source.resolve():
        raise UsageError(f"{to} holds the model that is to be protected; name another folder with --to")
    if source.resolve() in to.resolve().parents:
        raise UsageError(f"{to} lies inside the model's own folder; name one beside it with --to")
    if to.is_file():
        raise UsageError(f"{to} is a file; name a new folder with --to")
    if to.is_dir() and any(to.iterdir()) and not (to / MANIFEST).exists():
        raise UsageError(f"{to} is not empty and holds no run; name a new folder with --to")
    _check_writable(to, to)


def _check_writable(folder: Path, to: Path) -> None:
    there = next((each for each in (folder, *folder.resolve().parents) if each.exists()), Path())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(
            f"{to}: nothing can be written into {there} ({error.strerror}); name another place with --to"
        ) from error
