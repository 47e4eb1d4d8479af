"""The house: no folder is a hall, every package that has packages of its own has a contract that names all its parts, and
tests use public names alone."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
MOST_MODULES = 14


def packages() -> list[Path]:
    return [file.parent for file in sorted((ROOT / "testbed").rglob("__init__.py"))]


def dotted(folder: Path) -> str:
    return ".".join(folder.relative_to(ROOT).parts)


def test_no_folder_holds_more_modules_than_a_reader_can_take_in() -> None:
    sizes = {dotted(folder): len(list(folder.glob("*.py"))) for folder in packages()}
    assert {name: size for name, size in sizes.items() if size > MOST_MODULES} == {}


def test_every_package_with_packages_has_an_exhaustive_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = {
        container
        for contract in contracts
        if contract["type"] == "layers" and contract.get("exhaustive")
        for container in contract["containers"]
    }
    with_packages = {dotted(folder.parent) for folder in packages() if folder.name != "testbed"}
    assert with_packages == held


def test_no_name_hides_a_module() -> None:
    """A package that hands on a function of the name of one of its modules makes that module unreachable by its path."""
    hidden = []
    for folder in packages():
        package = importlib.import_module(dotted(folder))
        for module in pkgutil.iter_modules([str(folder)]):
            if not isinstance(vars(package).get(module.name, package), ModuleType):
                hidden.append(f"{package.__name__}.{module.name}")
    assert hidden == []


NOT_OURS = {  # what begins with "_" and is public all the same
    "_asdict": "named tuples",
    "_fields": "named tuples",
    "_replace": "named tuples",
    "_exit": "os",
    "_repr_html_": "what notebooks call",
    "_forward_hooks": "torch, which has no other way to see whether a hook is left",
}


def test_tests_use_public_names_alone() -> None:
    """What begins with "_" is tested through what uses it."""
    found = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(file.read_text())
        own = set(assigned(tree))
        found += [
            f"{file.relative_to(ROOT)}:{line}: {name}"
            for line, name in foreign_names(tree)
            if is_private(name) and name not in own | NOT_OURS.keys()
        ]
    assert found == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def assigned(tree: ast.AST) -> Iterator[str]:
    """Names that a file itself defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def foreign_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of attributes, imports and, where attributes are set by name, the names' parts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [name.name for name in node.names] + [getattr(node, "module", None) or ""]
            yield from ((node.lineno, part) for name in names for part in name.split("."))
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("setattr", "delattr", "getattr", "import_module"):
                words = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                yield from ((node.lineno, part) for word in words for part in word.split("."))
