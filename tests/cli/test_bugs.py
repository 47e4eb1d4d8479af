"""The last resort: whatever is raised, the user reads one line, and the traceback lies in a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A process `testbed` whose command runs the body it is given.
PROGRAM = """
import logging, sys, threading, warnings
import click
import testbed.cli.main as main
from testbed.cli.common import run_option

def forever():
    return forever()

@click.command()
@run_option(required=False)
def command(run):
    {body}

main.LazyGroup.get_command = lambda *_: command
main.main()
"""


def run(body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(body=body), "command", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("1 / 0", "this is a bug, please report it: ZeroDivisionError: division by zero"),
        ("forever()", "this is a bug, please report it: RecursionError: maximum recursion depth exceeded"),
        ("assert False", "this is a bug, please report it: AssertionError"),
        ("raise EOFError('cut short')", "this is a bug, please report it: RuntimeError: EOFError: cut short"),
        ("raise KeyError('two\\n\\x1b[31mlines')", "this is a bug, please report it: KeyError: 'two\\n\\x1b[31mlines'"),
        ("bytearray(2**62)", "out of memory; if asking for less does not help, this is a bug, please report it: Memor"),
        ("raise ValueError('x' * 10**6)", f"this is a bug, please report it: ValueError: {'x' * 300}"),
    ],
)
def test_a_bug_is_one_line_and_a_file(body: str, told: str, tmp_path: Path) -> None:
    done = run(body.replace("\n", "\\n").replace("\x1b", "\\x1b"), XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {told}")
    assert done.stderr.count("\n") == 1
    (file,) = (tmp_path / "testbed").iterdir()
    assert done.stderr.endswith(f"; details in {file}\n")
    details = file.read_text()
    assert details.startswith("testbed command\nPython ")
    assert "Traceback (most recent call last):" in details


def test_a_bug_in_a_thread_is_told_alike(tmp_path: Path) -> None:
    body = "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()"
    done = run(body, XDG_STATE_HOME=str(tmp_path))
    assert done.stderr.startswith(
        "error: this is a bug, please report it: ZeroDivisionError: division by zero; details"
    )
    assert done.stderr.count("\n") == 1


def test_details_lie_in_the_run_folder_if_it_is_one(tmp_path: Path) -> None:
    state, folder = tmp_path / "state", tmp_path / "run"
    folder.mkdir()
    run("1 / 0", "--run", str(folder), XDG_STATE_HOME=str(state))
    assert list(folder.iterdir()) == []
    assert len(list((state / "testbed").iterdir())) == 1
    (folder / "manifest.json").write_text("{}")
    run("1 / 0", "--run", str(folder), XDG_STATE_HOME=str(state))
    assert len(list(folder.glob("bug-*.txt"))) == 1


def test_without_a_folder_that_takes_them_the_line_says_how_to_see_them(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    body = "import tempfile; tempfile.gettempdir = lambda: '/proc/none'; 1 / 0"
    done = run(body, XDG_STATE_HOME=str(tmp_path / "file"))
    assert done.stderr.endswith("division by zero; no folder takes the details: set TESTBED_DEBUG=1 to see them\n")


def test_debugging_shows_the_traceback() -> None:
    done = run("1 / 0", TESTBED_DEBUG="1")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    "body",
    [
        "warnings.warn('of a library')",
        "warnings.simplefilter('always'); warnings.warn('of a library')",
        "logging.getLogger('torch').warning('of a library')",
        "type('Late', (), {'__del__': lambda self: 1 / 0})()",
    ],
)
def test_warnings_and_logs_of_libraries_stay_away(body: str) -> None:
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_our_own_warnings_do_not() -> None:
    assert run("logging.getLogger('testbed.data').warning('a \\x1b[31mclass')").stderr == "a \\x1b[31mclass\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full device is Linux's")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "testbed", "-h"], stdout=full, stderr=-1, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    done = subprocess.run(
        f"exec {sys.executable} -m testbed -h {closed}", shell=True, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_output_in_an_encoding_that_lacks_a_character_is_escaped() -> None:
    done = run("click.echo('\\u2265 5 %')", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert (done.returncode, done.stdout) == (0, "\\u2265 5 %\n")
