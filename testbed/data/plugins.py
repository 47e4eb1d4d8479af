"""Data sets of one's own for the command line: modules that call `testbed.data.register`.

An installed package names its modules as entry points of the group ``testbed.data``; for a module on Python's path, or a
file, say ``testbed --plugin``, or name it in the environment (``TESTBED_PLUGINS``), which processes inherit.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from testbed.core.errors import TestbedError, UsageError

GROUP = "testbed.data"
VARIABLE = "TESTBED_PLUGINS"
"""Environment variable: modules or files, separated as in PATH."""

_loaded: set[str] = set()
_loading: set[str] = set()
"""Begun and not ended: a plugin may itself ask for a data set, which asks for all plugins."""


def add_plugin(name: str) -> None:
    """One more module or file, for this process and those that it starts."""
    whole = os.path.abspath(Path(name).expanduser()) if name.endswith(".py") else name
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*_named(), whole]))


def load_plugins() -> None:
    """All of them, each once. Raises UsageError for one that is not there, TestbedError for one that fails."""
    for what, name, load in _plugins():
        if name in _loaded or name in _loading:
            continue
        _loading.add(name)
        try:
            load()
        except (ModuleNotFoundError, FileNotFoundError) as error:
            missing = getattr(error, "name", None) or name
            if missing != name:
                raise TestbedError(f"{what} needs the module {missing!r}, which is not installed") from error
            raise UsageError(f"{what} is not there; name a module on Python's path, or a file: FILE.py") from error
        except Exception as error:
            raise TestbedError(f"{what} does not load: {type(error).__name__}: {error}") from error
        finally:
            _loading.discard(name)
        _loaded.add(name)


def _plugins() -> Iterator[tuple[str, str, Callable[[], object]]]:
    """(what it is, its name, what loads it)."""
    for entry in metadata.entry_points(group=GROUP):
        yield f"plugin {entry.name!r} of {entry.dist.name if entry.dist else 'a package'}", entry.value, entry.load
    for name in _named():
        load = _load_file if name.endswith(".py") else importlib.import_module
        yield f"plugin {name!r}", name, partial(load, name)


def _named() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


def _load_file(path: str) -> None:
    """Loads the file as a module of the file's name, so that what it defines can be sent to other processes."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)
    spec.loader.exec_module(module)
