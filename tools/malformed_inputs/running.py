"""Runs one case in a fork of a warm process, and says what it came to: a fork costs milliseconds, an import seconds."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from malformed_inputs.case import Case

KNOWN_EXITS = (0, 1, 2, 3)
_MARKS = ("Traceback (most recent call last)", "this is a bug", "Error in sys.excepthook", "Fatal Python error")
_TOLD = 2000  # characters of stderr that are kept


@dataclass(frozen=True)
class Outcome:
    """``wrong``: what no input may bring about; empty where all is well. peak_mib: of the process and those it waited for."""

    kind: str
    name: str
    exit: int
    seconds: float
    peak_mib: float
    lines: int
    wrong: str
    stderr: str

    def record(self) -> dict[str, Any]:
        return asdict(self)


def warm() -> None:
    """Imports what commands import, so that forks need not."""
    import onnx
    import onnxruntime
    import pandas
    import pyarrow.parquet
    import sklearn.datasets
    import torch

    import testbed.campaign.pipeline
    import testbed.cli.main
    from testbed.cli.main import COMMANDS

    del onnx, onnxruntime, pandas, pyarrow, sklearn, testbed
    torch.set_num_threads(1)
    for module, _ in COMMANDS.values():
        importlib.import_module(module.partition(":")[0])


def run_case(case: Case, limit_s: float, memory_gib: float, keep: Path | None = None) -> Outcome:
    """keep: a folder to which the input of a case that went wrong is moved."""
    folder = Path(tempfile.mkdtemp(prefix="malformed-"))
    try:
        arguments = list(case.lay_out(folder))
        outcome = _forked(case, arguments, folder, limit_s, memory_gib)
        if outcome.wrong and keep is not None:
            shutil.copytree(folder, keep / folder.name, symlinks=True)
            (keep / folder.name / "COMMAND").write_text(repr(arguments), errors="backslashreplace")
        return outcome
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _forked(case: Case, arguments: list[str], folder: Path, limit_s: float, memory_gib: float) -> Outcome:
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _child(arguments, folder, out.fileno(), err.fileno())
        status, usage, hung = _waited(pid, limit_s)
        seconds = time.monotonic() - start
        err.seek(0)
        stderr = err.read().decode(errors="backslashreplace")
        out.seek(0)
        stdout = out.read().decode(errors="backslashreplace")
    code = os.waitstatus_to_exitcode(status)
    peak_mib = usage.ru_maxrss / 1024
    wrong = _wrong(code, hung, limit_s, stdout, stderr, peak_mib, memory_gib * 1024, folder)
    lines = len(stderr.strip().splitlines())
    return Outcome(case.kind, case.name, code, round(seconds, 2), round(peak_mib), lines, wrong, stderr[-_TOLD:])


def _child(arguments: list[str], folder: Path, out: int, err: int) -> None:
    """Never returns."""
    code = 70
    try:
        os.setsid()
        faulthandler.disable()  # of a test's: how the child ends is told by its status
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))  # a test's, maybe
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["TMPDIR"] = os.environ["XDG_STATE_HOME"] = str(folder)
        tempfile.tempdir = None
        sys.argv = ["testbed", *arguments]
        from testbed.cli.main import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # it reached the top: what a user would see
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _waited(pid: int, limit_s: float) -> tuple[int, resource.struct_rusage, bool]:
    """Its status, its use of resources, and whether it had to be killed."""
    deadline, hung = time.monotonic() + limit_s, False
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            _kill_group(pid)
            return status, usage, hung
        if not hung and time.monotonic() > deadline:
            hung = True
            _kill_group(pid)
        time.sleep(0.01)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _wrong(
    code: int, hung: bool, limit_s: float, stdout: str, stderr: str, peak_mib: float, most_mib: float, folder: Path
) -> str:
    if hung:
        return f"no end within {limit_s:g} s"
    if code not in KNOWN_EXITS:
        return f"exit status {code}"
    if mark := next((mark for mark in _MARKS if mark in stderr or mark in stdout), ""):
        return mark
    if peak_mib > most_mib:
        return f"{peak_mib:,.0f} MiB"
    if any(control in stdout + stderr for control in ("\x1b]", "\x1b[31m", "\x07", "\u202e")):
        return "a terminal escape of the input's reached the terminal"
    if code in (1, 2) and "error" not in stderr.lower():
        return "no word of error on stderr"
    if list(folder.glob("pickle-was-executed")):
        return "a pickle was executed"
    return ""
