"""Measure what the tests cost, and name those that are not quick in tests/not_quick.txt.

    python tools/measure_tests.py                     # all tests but slow and gpu ones: some 20 minutes, one process
    python tools/measure_tests.py tests/core          # only these; lines about other files stay

Costs are processor seconds, of the process and of the children that it waited for, so that a loaded machine changes
little. A test function is not quick where one of its cases takes more than CASE seconds or all of them together more than
FUNCTION, or where it asks for a shared fixture that takes more than FIXTURE, and more than SHARE for each case that asks
for it. A file is named as a whole where most of its functions are not quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_QUICK = ROOT / "tests" / "not_quick.txt"
CASE, FUNCTION, FIXTURE, SHARE = 0.2, 0.5, 0.6, 0.1
LOADED_ONCE = (  # testbed first: it switches off what some of the others send
    *("testbed", "torch", "onnx", "onnxruntime", "openvino"),
    *("pandas", "pyarrow.parquet", "scipy.stats", "sklearn", "matplotlib.pyplot"),
)
HEADER = """\
# Test files and functions that `tools/test quick` leaves out, by path below tests/. Made by tools/measure_tests.py.
"""

Function = tuple[str, str]
"""A file, by its path below tests/, and a test function of it."""


@dataclass(eq=False)  # pytest keeps plugins in sets
class Costs:
    """Processor seconds by test case and by shared fixture: a pytest plugin."""

    cases: dict[tuple[str, str, str], float] = field(default_factory=dict)  # (file, function, case)
    fixtures: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # all times that it was made
    asked: dict[Function, set[str]] = field(default_factory=dict)  # function -> its fixtures
    _own: float = 0.0  # of the fixtures of the case that comes

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Iterator[None]:
        function = (item.path.relative_to(NOT_QUICK.parent).as_posix(), item.originalname)
        definitions = item._fixtureinfo.name2fixturedefs.items()
        self.asked[function] = {f"{name} of {found[-1].baseid}" for name, found in definitions}
        with _measured() as cost:
            result = yield
        self.cases[(*function, item.name)] = cost[0] + self._own
        self._own = 0.0
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        with _measured() as cost:
            result = yield
        if fixturedef.scope == "function":
            self._own += cost[0]
        else:
            self.fixtures[f"{fixturedef.argname} of {fixturedef.baseid}"] += cost[0]
        return result


@contextmanager
def _measured() -> Iterator[list[float]]:
    """A list that holds, at the end, the processor seconds that were taken."""
    cost, start = [0.0], _processor_seconds()
    yield cost
    cost[0] = _processor_seconds() - start


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def not_quick(costs: Costs) -> tuple[set[str], float]:
    """Names of files and of FILE::FUNCTION that are not quick; processor seconds of all others, with their fixtures."""
    cases: dict[Function, list[float]] = defaultdict(list)
    for (file, function, _), cost in costs.cases.items():
        cases[file, function].append(cost)
    askers = Counter(fixture for key, own in cases.items() for fixture in costs.asked[key] for _ in own)
    dear = {name for name, cost in costs.fixtures.items() if cost > max(FIXTURE, SHARE * askers[name])}
    named = {key for key, own in cases.items() if max(own) > CASE or sum(own) > FUNCTION or costs.asked[key] & dear}
    for file in {file for file, _ in cases}:
        functions = {key for key in cases if key[0] == file}
        if len(functions & named) > len(functions) / 2:
            named |= functions
    names = {f"{file}::{function}" for file, function in named}
    for file in {file for file, _ in cases}:
        functions = {key for key in cases if key[0] == file}
        if functions <= named:
            names = {name for name in names if not name.startswith(f"{file}::")} | {file}
    rest = {key: own for key, own in cases.items() if key not in named}
    fixtures = {fixture for key in rest for fixture in costs.asked[key]}
    return names, sum(map(sum, rest.values())) + sum(costs.fixtures.get(name, 0.0) for name in fixtures)


def written(names: set[str], measured: set[str], before: str) -> str:
    """The file's new text: what was said before of files that were not measured now stays."""
    kept = {line for line in before.splitlines() if line and line[0] != "#" and line.partition("::")[0] not in measured}
    return HEADER + "".join(f"{name}\n" for name in sorted(names | kept))


def report(costs: Costs) -> Iterator[str]:
    """The dearest files and fixtures, for people."""
    files: dict[str, float] = defaultdict(float)
    for (file, _, _), cost in costs.cases.items():
        files[file] += cost
    yield from (f"{cost:8.1f} s  {file}" for file, cost in _dearest(files))
    yield from (f"{cost:8.1f} s  fixture {name}" for name, cost in _dearest(costs.fixtures))


def _dearest(costs: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(costs.items(), key=lambda item: -item[1])[:20]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=["tests"], help="files or folders (default: tests)")
    options = parser.parse_args(arguments)
    for library in LOADED_ONCE:  # else whichever test comes first pays for them
        importlib.import_module(library)
    costs = Costs()
    status = pytest.main(["-q", "-p", "no:cacheprovider", *options.tests], plugins=[costs])
    names, rest = not_quick(costs)
    before = NOT_QUICK.read_text() if NOT_QUICK.exists() else ""
    NOT_QUICK.write_text(written(names, {file for file, _, _ in costs.cases}, before))
    print("\n".join(report(costs)))
    print(
        f"{NOT_QUICK.relative_to(ROOT)}: {len(names)} of these are not quick; the others take {rest:.0f} s, after loading"
    )
    return int(status)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
