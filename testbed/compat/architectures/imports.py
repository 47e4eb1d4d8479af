"""Other libraries, imported when a model of theirs is built. None of them is a dependency of the testbed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

from testbed.compat.architectures.entry import LIBRARIES, ModelLibrary
from testbed.core.errors import UsageError

_MODULES: dict[ModelLibrary, str] = {
    "timm": "timm",
    "transformers": "transformers",
    "torchvision": "torchvision",
    "vit-pytorch": "vit_pytorch",
}


def imported(name: str) -> Any:
    """A module of another library. Raises ModuleNotFoundError where the library is not installed."""
    importlib.import_module("testbed.data.torchvision_import")  # makes torchvision importable for the libraries
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def require(libraries: set[ModelLibrary]) -> None:
    """Raises UsageError, with the command that installs them, where libraries are missing."""
    missing = [name for name in LIBRARIES if name in libraries and importlib.util.find_spec(_MODULES[name]) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not installed, of which models are to be built: pip install {' '.join(missing)}; or"
            " choose other models with --library"
        )


def version_of(library: ModelLibrary) -> str:
    """Version of an installed library."""
    from importlib.metadata import version

    return version(library)
