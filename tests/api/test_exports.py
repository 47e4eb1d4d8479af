"""What `import testbed` offers: cheap, typed, documented."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import testbed

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "pandas", "pyarrow", "pydantic", "matplotlib", "rich", "click")
FUNCTIONS = [name for name in testbed.__all__ if inspect.isfunction(getattr(testbed, name))]


def test_importing_it_imports_nothing_heavy() -> None:
    code = f"import sys, testbed; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_type_checkers_see_every_name_where_it_is_loaded_from() -> None:
    tree = ast.parse(Path(testbed.__file__).read_text())
    seen = {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing", "importlib")
        for alias in node.names
    }
    homes = {name: module for name, module in seen.items() if name in testbed.__all__}
    assert sorted(homes) == testbed.__all__ == sorted(testbed.__all__)
    for name, module in homes.items():
        assert getattr(testbed, name) is getattr(import_module(str(module)), name)


@pytest.mark.parametrize("name", testbed.__all__)
def test_every_name_is_documented(name: str) -> None:
    documented = inspect.getdoc(getattr(testbed, name)) or ""
    first = documented.partition("\n")[0]
    assert first.endswith((".", "?"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_documents_its_arguments_result_and_an_example(name: str) -> None:
    function = getattr(testbed, name)
    documented = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters.values():
        shown = f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        assert f"\n    {shown}: " in documented, parameter.name
    assert "\nReturns:\n" in documented
    assert "\nExample:\n" in documented
    assert f"testbed.{name}(" in documented


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'testbed' has no attribute 'prune_models'"):
        testbed.prune_models  # noqa: B018
    assert testbed.__version__
    assert {*testbed.__all__, "__version__"} <= {*dir(testbed)}


def test_the_help_begins_with_a_table_of_all_names() -> None:
    shown = pydoc.plain(pydoc.render_doc(testbed))
    first_page = "\n".join(shown.splitlines()[:60])
    assert [name for name in testbed.__all__ if not re.search(rf"\b{name}\b", first_page)] == []
    assert "model_validate" not in shown


def test_the_earlier_name_of_open_run_says_so() -> None:
    with pytest.warns(DeprecationWarning, match=r"testbed\.open_run"):
        assert testbed.load_run is testbed.open_run
    assert "load_run" not in dir(testbed)
