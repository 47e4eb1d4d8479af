"""The developer guide fits the sources as they are: its hunks apply, what its code imports is there, its map is whole.

Cheap, and so in the quick loop; that the code also works is seen by test_developer_guide.py.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.guide import GUIDE, ROOT, blocks, is_of_the_tree, patched

PAGES = [page.name for page in sorted(GUIDE.glob("*.md")) if list(blocks(page.name))]
OURS = ("testbed", "tests")


def test_there_are_pages_with_code_and_with_diffs() -> None:
    assert len(PAGES) >= 5
    assert sum(kind == "diff" for page in PAGES for kind, _, _ in blocks(page)) >= 6


@pytest.mark.parametrize("page", PAGES)
def test_every_hunk_applies_to_the_sources(page: str) -> None:
    changed: dict[str, str] = {}
    for kind, file, text in blocks(page):
        if kind == "diff":
            changed[file] = patched(changed.get(file) or (ROOT / file).read_text(), text)
        elif is_of_the_tree(file):
            assert not (ROOT / file).exists(), f"{file} is there already"
    for file, text in changed.items():
        if file.endswith(".py"):
            ast.parse(text, file)


@pytest.mark.parametrize("page", PAGES)
def test_what_its_code_imports_of_the_package_is_there(page: str) -> None:
    new = {file for kind, file, _ in blocks(page) if kind != "diff"}
    missing = []
    for kind, file, text in blocks(page):
        if kind == "diff" and file.endswith(".py"):
            text = patched((ROOT / file).read_text(), text)
        elif kind != "python":
            continue
        for node in ast.walk(ast.parse(text, file)):
            if not isinstance(node, ast.ImportFrom) or not _is_ours(node, file):
                continue
            module = _module(node, file)
            if f"{module}.py" in new:
                continue
            missing += [f"{module}: {name.name}" for name in node.names if not _is_in(module, name.name)]
    assert missing == []


def test_the_map_names_every_package() -> None:
    text = (GUIDE / "map.md").read_text()
    packages = [init.parent.relative_to(ROOT).parts for init in sorted((ROOT / "testbed").rglob("__init__.py"))]
    top = [f"`testbed/{names[1]}/`" for names in packages if len(names) == 2]
    inside = [f"`{names[2]}/`" for names in packages if len(names) == 3]
    assert [name for name in (*top, *inside) if name not in text] == []


def test_the_map_of_the_readme_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    packages = {f"testbed/{init.parent.name}/" for init in (ROOT / "testbed").glob("*/__init__.py")}
    named = set(re.findall(r"`(testbed/\w+/)`", text))
    assert named == packages
    for folder in re.findall(r"`(\w+)/`", text):
        assert (ROOT / folder).is_dir()


def _is_ours(node: ast.ImportFrom, file: str) -> bool:
    return (node.module or "").split(".")[0] in OURS or (node.level > 0 and file.startswith(OURS))


def _module(node: ast.ImportFrom, file: str) -> str:
    """The path of the module, without its suffix, that a file of the tree imports from."""
    parents = file.split("/")[: -node.level] if node.level else []
    return "/".join([*parents, *(node.module or "").split(".")]).rstrip("/")


def _is_in(module: str, name: str) -> bool:
    return name in _names(module) or any((ROOT / module / f"{name}{end}").exists() for end in (".py", ""))


@cache
def _names(module: str) -> set[str]:
    """Everything that the module defines or imports, read without importing it."""
    path = next((p for p in (ROOT / f"{module}.py", ROOT / module / "__init__.py") if p.exists()), Path())
    if not path.is_file():
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names
