"""Malformed inputs: whatever they are, one line and an exit status; and what finds them finds what is wrong."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import malformed
import numpy as np
import pytest
from malformed_inputs.case import Base, Case
from malformed_inputs.running import run_case
from malformed_inputs.sound import made
from malformed_inputs.values import ABSURD, as_json, as_toml, places, random_edit

from testbed.cli import main as cli

TOOL = Path(__file__).parents[2] / "tools" / "malformed.py"
FEW = {"spec": 10, "onnx": 20, "weights": 15, "golden": 4, "run folder": 10, "results": 6}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return made(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("kind", list(malformed.KINDS))
def test_some_of_each_kind(kind: str, base: Base, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TOOL, "--base", base.run.parent, "--kind", kind, "--count", str(FEW[kind])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kind}: {FEW[kind]} inputs, 0 wrong" in done.stdout


@pytest.mark.slow
def test_two_thousand(base: Base, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TOOL, "--base", base.run.parent, "--seed", "1"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_case_is_the_same_each_time(base: Base, tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        folder = tmp_path / str(number)
        cases = list(itertools.islice(malformed.cases_of("onnx", base, 6, seed=3), 6))
        for case in cases:
            (folder / case.name).mkdir(parents=True, exist_ok=True)
            case.lay_out(folder / case.name)
        contents.append([(case.name, (folder / case.name / "model.onnx").read_bytes()) for case in cases])
    assert contents[0] == contents[1]


def _raises() -> NoReturn:
    raise KeyError("nobody caught this")


def _hangs() -> NoReturn:
    while True:
        signal.pause()


def _takes_memory() -> None:
    assert np.ones(300 * 2**17).sum() > 0  # 300 MiB
    sys.exit(0)


def _killed() -> None:
    signal.raise_signal(signal.SIGSEGV)


def _silent() -> NoReturn:
    sys.exit(1)


def _escapes() -> NoReturn:
    print("\x1b[31merror: red", file=sys.stderr)
    sys.exit(1)


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (_raises, "Traceback"),
        (_hangs, "no end within"),
        (_takes_memory, "MiB"),
        (_killed, "exit status -11"),
        (_silent, "no word of error"),
        (_escapes, "terminal escape"),
    ],
)
def test_what_is_wrong_is_found(command: Callable[[], None], wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "main", command)
    memory_gib = 0.25 if command is _takes_memory else 4
    outcome = run_case(
        Case("any", "any", lambda folder: []), limit_s=3 if command is _hangs else 60, memory_gib=memory_gib
    )
    assert wrong in outcome.wrong


def test_absurd_values_can_be_written() -> None:
    tree = {"a": {"b": [1, {"c": "d"}]}, "e": 1.5}
    assert list(places(tree)) == [("a",), ("a", "b"), ("a", "b", 0), ("a", "b", 1), ("a", "b", 1, "c"), ("e",)]
    rng = np.random.default_rng(0)
    changed = [random_edit(tree, rng)[1] for _ in range(20 * len(ABSURD))]
    assert all(as_json(one) and isinstance(as_toml(one), str) for one in changed)
    assert any("[" * 2000 in as_json(one) for one in changed)
    assert tree == {"a": {"b": [1, {"c": "d"}]}, "e": 1.5}
