"""One word, one meaning: class names, aliases and names of arrays, and first lines that stand alone."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "testbed"
EMPTY_NAMES = {"found", "mine", "one", "place", "told"}
"""They say that there is a thing, and not what it is."""
PREPOSITIONS = {
    "about", "after", "among", "as", "at", "before", "beside", "between", "by", "for", "from", "in", "of", "on", "so",
    "through", "to", "under", "until", "with", "without",
}  # fmt: skip

METAPHORS = {"piece", "pieces", "strike", "striker", "strikes", "struck", "workforce"}
"""They stand where the field has a word: segment, injection, inject, faulty, worker."""

EMPTY_NAMES_LEFT: dict[str, int] = {}
"""How often a package may still give a thing one of these names; one that is not here, never. Lower them only."""


@cache
def modules() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(path: Path) -> str:
    """The folder two floors down at most: "campaign/work", "core", "data"."""
    return "/".join(path.relative_to(PACKAGE).parts[:-1][:2]) or "."


def aliases(module: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, what it stands for) of the module's type aliases."""
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if re.match("_?[A-Z][a-z]", name):
                yield name, ast.unparse(value)


def given_names(module: ast.Module) -> Iterator[str]:
    """Names of variables, parameters, fields, functions and classes, once each time that they are given."""
    for node in ast.walk(module):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


def first_lines(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text.split("\n")[0]


def is_riddle(line: str) -> bool:
    word = re.match(r"[A-Za-z]+", line)
    return word is not None and (word[0][0].islower() or word[0].lower() in PREPOSITIONS)


def per_package(count: Callable[[ast.Module], int]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path, module in modules().items():
        counts[package_of(path)] += count(module)
    return dict(+counts)


def empty_names() -> dict[str, int]:
    return per_package(lambda module: sum(name.lstrip("_") in EMPTY_NAMES for name in given_names(module)))


def riddles() -> dict[str, int]:
    return per_package(lambda module: sum(map(is_riddle, first_lines(module))))


def above(counts: dict[str, int], allowed: dict[str, int]) -> dict[str, int]:
    return {package: count for package, count in counts.items() if count > allowed.get(package, 0)}


def test_every_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_an_alias_stands_for_the_same_thing_everywhere() -> None:
    classes = {
        node.name for module in modules().values() for node in ast.walk(module) if isinstance(node, ast.ClassDef)
    }
    meanings: dict[str, set[str]] = defaultdict(set)
    for module in modules().values():
        for name, meaning in aliases(module):
            meanings[name].add(meaning)
    assert {name: texts for name, texts in meanings.items() if len(texts) > 1 or name in classes} == {}


def test_aliases_of_arrays_live_in_one_module() -> None:
    arrays = {
        str(path.relative_to(PACKAGE))
        for path, module in modules().items()
        for _, meaning in aliases(module)
        if re.match(r"(np\.)?NDArray\[", meaning)
    }
    assert arrays == {"core/arrays.py"}


def test_things_are_named_for_what_they_are() -> None:
    assert above(empty_names(), EMPTY_NAMES_LEFT) == {}


def test_nothing_is_named_by_a_metaphor_where_the_field_has_a_word() -> None:
    assert per_package(lambda module: sum(name.strip("_") in METAPHORS for name in given_names(module))) == {}


def test_the_first_line_of_a_docstring_stands_alone() -> None:
    assert riddles() == {}


@pytest.mark.parametrize(
    ("line", "riddle"),
    [
        ("Of another job than before, whoever is not at work yet hears anew.", True),
        ("path: of the file.", True),
        ("Submits a unit to a member; its end arrives among the events.", False),
        ("``atol`` per image.", False),
        ("(n,) whether all bits are equal.", False),
    ],
)
def test_what_counts_as_a_riddle(line: str, riddle: bool) -> None:
    assert is_riddle(line) is riddle
