"""Engines of other packages: entry points of the group ``testbed.engines``, the engine's name -> its runner class.

A runner class takes an `EngineRequest`. It may have ``precisions``, the formats of the files that it takes (fp32 unless
said), and a class or static method ``available``, which returns a version, or raises with what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

from testbed.core.errors import EngineError, first_line

GROUP = "testbed.engines"
ENGINE_NAME = r"^[\w.-]+$"
"""Names that entry points should have, as the packaging standard wants them."""


@dataclass(frozen=True)
class EnginePlugin:
    """An engine that a package registers. ``version``: of the package."""

    name: str
    package: str
    version: str
    entry: metadata.EntryPoint

    @cached_property
    def runner(self) -> Any:
        """The runner class. Raises EngineError in one line where it does not load."""
        try:
            runner = self.entry.load()
        except ModuleNotFoundError as error:
            raise EngineError(f"{self} does not load: {error.name} is not installed") from error
        except Exception as error:  # whatever somebody else's module raises
            raise EngineError(f"{self} does not load: {type(error).__name__}: {first_line(error)}") from error
        if not callable(runner):
            raise EngineError(f"{self} does not load: {self.entry.value} is not a runner class")
        return runner

    @property
    def precisions(self) -> Sequence[str]:
        """Number formats of the files that it takes."""
        return tuple(getattr(self.runner, "precisions", ("fp32",)))

    def available(self) -> tuple[bool, str]:
        """Whether it can run here, and its version, or in one line why not."""
        try:
            ask = getattr(self.runner, "available", None)
            return True, self.version if ask is None else str(ask())
        except EngineError as error:
            return False, str(error)
        except Exception as error:
            return False, f"{self}: {first_line(error)}"

    def __str__(self) -> str:
        return f"engine {self.name!r} of package {self.package!r}"


def engine_plugins() -> dict[str, EnginePlugin]:
    """Installed engine plugins by name, the first of each; none of them is loaded."""
    plugins: dict[str, EnginePlugin] = {}
    for entry in metadata.entry_points(group=GROUP):
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("?", "?")
        plugins.setdefault(entry.name, EnginePlugin(entry.name, package, version, entry))
    return plugins
