"""The house: no folder is a hall, and every package that has packages of its own has a contract that names all its parts."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
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
