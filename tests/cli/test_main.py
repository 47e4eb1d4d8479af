from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from testbed.cli.main import COMMANDS, LazyGroup, cli
from testbed.core.errors import GateFailed, TestbedError, UsageError
from tests.support.commands import invoke

HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "pydantic"}


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def modules_after(statements: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter that ran ``statements``."""
    code = f"{statements}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    loaded = modules_after("from testbed.cli.main import cli\ncli.main(['--help'], standalone_mode=False)")
    assert "click" in loaded
    assert not loaded & HEAVY


def test_loading_every_command_imports_nothing_heavy() -> None:
    names = [path for path in commands(cli) if len(path) == 1]
    loaded = modules_after(f"from testbed.cli.main import cli\nfor name, in {names}: cli.get_command(None, name)")
    assert "testbed" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("path", [(), *commands(cli)], ids=" ".join)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...]) -> None:
    result = invoke(*path, "-h")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert " ".join(("testbed", *path)) in result.output.partition("Example")[2]


def test_a_command_whose_module_is_absent_is_neither_listed_nor_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "ghost", ("testbed.cli.ghost:ghost", "Not there."))
    assert "ghost" not in invoke("-h").output
    assert invoke("ghost").exit_code == 2


def test_no_arguments_show_the_help() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Commands:" in result.output


@pytest.mark.parametrize("args", [["--no-such-option"], ["no-such-command"], ["doctor", "--no-such-option"]])
def test_usage_errors_are_one_line_and_exit_2(args: list[str]) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert args[-1] in result.stderr
    assert result.stderr.count("\n") == 1


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Result:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: failing)
    return invoke("failing")


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (TestbedError("no such run; do this"), 1, "no such run; do this"),
        (UsageError("unknown site"), 2, "unknown site"),
        (GateFailed("drift over the bound"), 3, "drift over the bound"),
        (TestbedError("two\nlines"), 1, "two lines"),
        (OSError(errno.ENOSPC, "No space left on device", "x.bin"), 1, "[Errno 28] No space left on device: 'x.bin'"),
        (KeyboardInterrupt("resume with: testbed again"), 130, "interrupted; resume with: testbed again"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, exit_code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_raising(error, monkeypatch)
    assert result.exit_code == exit_code
    assert result.stderr == f"error: {line}\n"
    assert result.stdout == ""


def test_an_interrupt_without_a_hint_still_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_raising(KeyboardInterrupt(), monkeypatch)
    assert result.exit_code == 130
    assert "same command" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes break differently on Windows")
def test_a_reader_that_left_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "testbed", "-h"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == ""
    assert done.returncode == 1


def test_help_of_every_command_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = {" ".join(words): CliRunner().invoke(cli, [*words, "-h"], terminal_width=80) for words in commands(cli)}
    assert len(told) > 20
    wide = [line for result in told.values() for line in result.stdout.splitlines() if len(line) > 80]
    assert wide == []
    shell = told["campaign run"].stdout.split("Example:")[1].replace("\\\n", "")  # as a shell joins lines
    whole = "testbed campaign run digits.toml --set engine.backend=openvino --run runs/digits-openvino"
    assert whole.split() in [line.split() for line in shell.splitlines()]


@pytest.mark.parametrize("words", [[], ["campaign"], ["data"], ["golden"], ["fault"], ["cache"]])
def test_help_of_a_group_cuts_no_sentence(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = CliRunner().invoke(cli, [*words, "-h"], terminal_width=80)
    assert told.exit_code == 0
    commands = told.stdout.split("Commands:")[1].split("Example:")[0]
    assert "..." not in commands
    assert all(len(line) <= 80 for line in told.stdout.splitlines())
    if words == ["campaign"]:
        shown = " ".join(commands.split())
        assert "compare Compare two finished campaigns of one model: two engines, or two precisions." in shown
