"""Reference page of the Python API: the names that the package exports, each by its docstring."""

from __future__ import annotations

import importlib
from types import ModuleType

from pydantic import BaseModel

from documentation.markdown import table

MODULES = ("testbed", "testbed.data", "testbed.testing")


def api_page() -> str:
    """The page; mkdocstrings fills in signatures and docstrings."""
    parts = [
        "# Python API\n",
        "What is listed here is the public interface. Everything else may change without notice.\n",
    ]
    for module in map(importlib.import_module, MODULES):
        names = exported(module)
        rows = [[f"[`{name}`][{module.__name__}.{name}]", first_line(module, name)] for name in names]
        parts += [
            f"## {module.__name__} {{#module-{module.__name__.replace('.', '-')}}}\n",
            table(["name", "what it is"], rows),
        ]
        parts += [_entry(module, name) for name in names]
    return "\n".join(parts)


def _entry(module: ModuleType, name: str) -> str:
    text = f"::: {module.__name__}.{name}\n    options: {{heading_level: 3}}\n"
    value = getattr(module, name)
    if isinstance(value, type) and issubclass(value, BaseModel):
        text += "\nIts fields are the [keys of a spec](spec.md).\n"
    return text


def exported(module: ModuleType) -> list[str]:
    """The public names, in the order of ``__all__``."""
    return list(module.__all__)


def first_line(module: ModuleType, name: str) -> str:
    """The first line of a public name's docstring."""
    lines = (getattr(module, name).__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""
