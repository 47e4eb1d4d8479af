"""Ctrl-C, SIGTERM and SIGHUP, sent to a real process: once, twice, in a burst, at its start and at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")

ROOT = Path(__file__).parents[2]

# A process `testbed` whose command is one of these; it prints a line when it is there.
PROGRAM = """
import ctypes, sys, threading, time
from pathlib import Path
import click
import testbed.cli.main as main
from testbed.core.folder.files import atomic_path

def ready():
    print("ready", flush=True)

def tidies_up_for_long():
    try:
        ready()
        time.sleep(60)
    finally:
        print("tidying up", flush=True)
        threading.Event().wait(60)

def swallows():
    tell = ready
    while True:
        try:
            tell()
            tell = lambda: None
            time.sleep(60)
        except BaseException:
            pass

def waits_in_native_code():
    mutex = ctypes.create_string_buffer(64)
    ready()
    for _ in range(2):  # the second waits for ever, and no signal wakes it
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

def makes_another_error_of_it():
    try:
        ready()
        time.sleep(60)
    except BaseException:
        raise RuntimeError("the library failed") from None

def imports():
    Path("slow.py").write_text("import time\\nprint('ready', flush=True)\\ntime.sleep(60)\\n")
    sys.path.append(".")
    try:
        import slow
    except BaseException:  # as libraries try for what is optional
        pass
    time.sleep(60)

def loses_it():
    class Late:
        def __del__(self):
            ready()
            time.sleep(60)
    Late()
    time.sleep(60)

def writes():
    with atomic_path(Path(sys.argv[2]) / "large.npy") as path:
        path.write_bytes(b"half of it")
        try:
            ready()
            time.sleep(60)
        finally:
            threading.Event().wait(60)

def writes_a_file():
    with atomic_path(Path(sys.argv[2]) / "large.npy") as path:
        path.write_bytes(b"half of it")
        ready()
        time.sleep(60)

def has_ended():
    class Late:
        def __del__(self):
            ready()
            time.sleep(60)
    threading._late = Late()  # goes as the interpreter does

def forks():
    import os
    begun, begins = os.pipe()
    if os.fork() == 0:
        try:
            os.write(begins, b"x")
            time.sleep(60)
        except KeyboardInterrupt:
            os._exit(0)
    os.read(begun, 1)
    ready()
    try:
        time.sleep(60)
    finally:
        os.wait()
        time.sleep(0.3)

command = click.command()(globals()[sys.argv[1]])
main.LazyGroup.get_command = lambda *_: command
sys.argv[1:] = ["command"]
main.main()
"""


@contextmanager
def running(name: str, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """The program, from the moment it is ready; in a process group of its own."""
    program = PROGRAM.replace("sys.argv[2]", repr(arguments[0])) if arguments else PROGRAM
    command = [*prefix, sys.executable, "-c", program, name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_the_first_ctrl_c_is_raised_where_the_command_is_and_the_second_ends_its_tidying_up() -> None:
    with running("tidies_up_for_long") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "tidying up\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=10)
    assert process.returncode == 130
    assert told.startswith("error: stopped at once; ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["tidies_up_for_long", "swallows", "waits_in_native_code"])
@pytest.mark.parametrize("pause_s", [0.0, 0.01])
def test_a_burst_ends_a_process_whatever_it_is_doing(name: str, pause_s: float) -> None:
    with running(name) as process:
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(pause_s)
        _, told = process.communicate(timeout=10)
    assert process.returncode in (130, -signal.SIGINT)  # the system's own end, for one that came as the process left
    assert "Traceback" not in told


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_second_signal_leaves_nothing_half_written(name: str, tmp_path: Path) -> None:
    number = signal.Signals[name]
    with running("writes", str(tmp_path)) as process:
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        process.send_signal(number)
        process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_that_a_library_makes_an_error_of_is_no_bug(number: signal.Signals, status: int) -> None:
    with running("makes_another_error_of_it") as process:
        process.send_signal(number)
        _, told = process.communicate(timeout=10)
    assert process.returncode == status
    assert "bug" not in told
    assert "Traceback" not in told


def test_a_terminated_command_leaves_nothing_half_written(tmp_path: Path) -> None:
    with running("writes_a_file", str(tmp_path)) as process:
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["imports", "loses_it"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_ends_what_would_swallow_it(
    name: str, number: signal.Signals, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with running(name) as process:
        process.send_signal(number)
        _, told = process.communicate(timeout=10)
    assert process.returncode == status
    hint = "error: interrupted; run the same command again to start over or go on\n"
    assert told == (hint if number == signal.SIGINT else "")


def test_ctrl_c_after_the_command_has_ended_says_nothing() -> None:
    with running("has_ended") as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_a_forked_childs_ctrl_c_is_not_counted_as_ours() -> None:
    with running("forks") as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: once, to both
        _, told = process.communicate(timeout=10)
    assert process.returncode == 130
    assert told.startswith("error: interrupted; ")


def test_a_signal_that_is_ignored_from_outside_stays_ignored() -> None:
    with running("swallows", prefix=("nohup",)) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)


def test_ctrl_c_while_the_command_line_is_imported_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "testbed"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == -signal.SIGINT
