"""Runs stages one after another, each in a process of its own that is ended at its limit, within one budget of time.

The report is a file that is whole at any moment: it is written anew after every stage, and within one whenever the
stage tells what it has found so far.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .common import Setting, write_json
from .stages import Missing, Stage

PASSED, FAILED, SKIPPED, TIMEOUT, NOT_RUN = "passed", "failed", "skipped", "timeout", "not run"
FITS = 0.25  # of a stage's share: with less time left than this it is not begun
_LOOK_S = 0.1
_FOLDERS = (str(Path(__file__).parents[1]), str(Path(__file__).parents[2]))  # gpu_checks and testbed, of this checkout


@dataclass
class Report:
    """What is written to ``path``."""

    path: Path
    header: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing failed or ran into its limit, and something passed."""
        statuses = [stage["status"] for stage in self.stages.values()]
        return PASSED in statuses and not {FAILED, TIMEOUT} & set(statuses)

    def to_dict(self) -> dict[str, Any]:
        return {**self.header, "ok": self.ok, "stages": self.stages}

    def save(self, name: str, **record: Any) -> None:
        self.stages[name] = {"status": NOT_RUN, "seconds": 0.0, "facts": {}, "error": None, **record}
        write_json(self.path, self.to_dict())


def environment() -> dict[str, str]:
    """Of a stage: this checkout first, then what the user's PYTHONPATH holds; one thread unless said; cuBLAS's choice of
    algorithm fixed before anything asks for it."""
    path = os.pathsep.join([*_FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])])
    fixed = {"OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return fixed | os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def run_stages(
    stages: Sequence[Stage],
    setting: Setting,
    report: Report,
    lacking: Sequence[Missing] = (),
    *,
    budget_s: float,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Runs every stage that has what it needs and time left. budget_s: from now on, for all of them."""
    end = time.monotonic() + budget_s
    skipped = {name: miss for miss in reversed(lacking) for name in miss.stages}
    for stage in stages:
        report.save(stage.name, error="not reached")
    for number, stage in enumerate(stages, 1):
        say(f"[{number}/{len(stages)}] {stage.name}: ")
        if (miss := skipped.get(stage.name)) is not None:
            report.save(stage.name, status=SKIPPED, error=f"{miss.name}: {miss.why}")
        else:
            _run(stage, setting, report, budget_s, end - time.monotonic())
        say(told(report.stages[stage.name]) + "\n")


def told(record: dict[str, Any]) -> str:
    """A stage's record in one line."""
    seconds = f", {record['seconds']:.0f} s" if record["seconds"] else ""
    why = f": {record['error']}" if record["error"] else ""
    return f"{record['status']}{seconds}{why}"


def _run(stage: Stage, setting: Setting, report: Report, budget_s: float, left_s: float) -> None:
    limit_s = round(min(stage.share * budget_s, left_s), 1)
    if limit_s < FITS * stage.share * budget_s:
        report.save(stage.name, error=f"budget: {max(left_s, 0):.0f} s left of {budget_s:g}")
        return
    folder = setting.folder / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    asked, result, parts, log = (folder / name for name in ("setting.json", "result.json", "parts.json", "log.txt"))
    asked.write_text(replace(setting, folder=folder, limit_s=limit_s).to_json())
    report.save(stage.name, limit_s=limit_s, error="begun, and the tool ended before it did")
    start = time.monotonic()
    command = [sys.executable, "-m", "gpu_checks.child", stage.entry, *map(str, (asked, result, parts))]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended = _wait(process, start + limit_s, parts, lambda facts: _tell(report, stage, facts))
        finally:
            _end(process)
    found = _read(result) if ended else None
    record: dict[str, Any] = {"limit_s": limit_s, "seconds": round(time.monotonic() - start, 2)}
    if not ended:
        record |= {"status": TIMEOUT, "error": f"ended after {limit_s:g} s, its limit", "facts": _read(parts) or {}}
    elif found is None:
        error = f"the process ended with {process.returncode}: {_last_line(log)}"
        record |= {"status": FAILED, "error": error, "facts": _read(parts) or {}}
    else:
        status = SKIPPED if not found.pop("ran") else PASSED if found["ok"] else FAILED
        error = found.pop("reason", None)
        found.pop("ok")
        record |= {"status": status, "error": error, "facts": {**(_read(parts) or {}), **found}}
    report.save(stage.name, **record)


def _tell(report: Report, stage: Stage, facts: dict[str, Any]) -> None:
    report.save(stage.name, **{**report.stages[stage.name], "facts": facts})


def _wait(process: subprocess.Popen[bytes], end: float, parts: Path, tell: Callable[[dict[str, Any]], None]) -> bool:
    """Whether it ended by itself. tell: gets the parts whenever there are new ones."""
    seen = None
    while True:
        running = process.poll() is None
        with contextlib.suppress(OSError):
            if (changed := parts.stat().st_mtime_ns) != seen:
                seen = changed
                tell(_read(parts) or {})
        if not running:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """And whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def probe(needs: Sequence[str], limit_s: float) -> dict[str, str | None]:
    """Each need -> None where it is here, else why not; all asked in one process, ended after ``limit_s``."""
    command = [sys.executable, "-m", "gpu_checks.probe", *needs]
    try:
        said = subprocess.run(
            command, env=environment(), capture_output=True, timeout=limit_s, check=False, start_new_session=True
        ).stdout
        silent = "ended the process that imported it"
    except subprocess.TimeoutExpired as late:
        said, silent = late.stdout or b"", f"not imported within {limit_s:.0f} s"
    found: dict[str, str | None] = {}
    for line in said.decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError):  # a library's own words
            need, why = json.loads(line)
            found[need] = why
    if unasked := [need for need in needs if need not in found]:
        found[unasked[0]] = silent
        if found.keys() < set(needs) and "process" in silent:
            found |= probe(unasked[1:], limit_s)
    return {need: found.get(need, silent) for need in needs}
