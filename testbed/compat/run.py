"""The support matrix: each architecture built, exported and checked, one after the other or in several processes."""

from __future__ import annotations

import gc
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch

from testbed.compat.architectures.catalogue import choose
from testbed.compat.architectures.entry import Architecture
from testbed.compat.architectures.imports import require
from testbed.compat.checks.flips import check_flips
from testbed.compat.checks.gates import check_suffix, check_weights, check_zero_fault
from testbed.compat.checks.sites import check_sites
from testbed.compat.checks.subject import CheckedExport
from testbed.compat.checks.twin import check_twin
from testbed.compat.exporters import Exporter, export, exporters_of, quiet
from testbed.compat.record import CHECKS, ArchitectureResult, CheckVerdict, Matrix
from testbed.compat.seeded import built
from testbed.core.errors import TestbedError, UsageError, first_line

Check = Callable[[CheckedExport], tuple[str, ...] | None]
LIMIT_S = 600.0
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_FAILS_FIRST = "the file is not instrumented"


def _instrument(subject: CheckedExport) -> None:
    """The file as a campaign takes it: adopted, its sites listed, its twin written, its golden run."""
    assert len(subject.twin.graph.node) > len(subject.plain.graph.node)


MADE_BY: dict[str, Check] = {
    "instrument": _instrument,
    "sites": check_sites,
    "twin": check_twin,
    "zero_fault": check_zero_fault,
    "flips": check_flips,
    "suffix": check_suffix,
    "weights": check_weights,
}
assert tuple(MADE_BY) == CHECKS


def planned(entries: Sequence[Architecture], exporters: Sequence[Exporter] = ()) -> list[tuple[Architecture, Exporter]]:
    """Every architecture with each of these exporters that its users have; with all that they have, unless said.

    Raises UsageError where nothing is left.
    """
    files = [
        (entry, exporter)
        for entry in entries
        for exporter in exporters_of(entry)
        if not exporters or exporter in exporters
    ]
    if not files:
        raise UsageError(f"no chosen model's users have the exporter {', '.join(exporters)}; leave --exporter out")
    return files


def run_matrix(
    files: Sequence[tuple[Architecture, Exporter]],
    each: Callable[[ArchitectureResult], None] = lambda result: None,
    limit_s: float = LIMIT_S,
    workers: int = 0,
) -> Matrix:
    """Checks every architecture as the exporter beside it writes it.

    each: called with every finished model, in the order in which they finish. limit_s: no check of a model is begun after so
    long. workers: processes that share the architectures, of the catalogue then; 0: this one does all. Whatever goes wrong in
    a model is a cell of it. Raises UsageError where a library is not installed, TestbedError where a worker is killed.
    """
    require({entry.library for entry, _ in files})
    results = dict[int, ArchitectureResult]()
    for number, result in _checked_here(files, limit_s) if not workers else _checked_apart(files, limit_s, workers):
        results[number] = result
        each(result)
    libraries = dict.fromkeys([*(entry.library for entry, _ in files), "torch", "onnx"])
    return Matrix(tuple(results[number] for number in sorted(results)), {name: version(name) for name in libraries})


def _checked_here(
    files: Sequence[tuple[Architecture, Exporter]], limit_s: float
) -> Iterator[tuple[int, ArchitectureResult]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, (entry, exporter) in enumerate(files):
            yield number, check_model(entry, exporter, limit_s)
    finally:
        torch.set_num_threads(threads)


def _checked_apart(
    files: Sequence[tuple[Architecture, Exporter]], limit_s: float, workers: int
) -> Iterator[tuple[int, ArchitectureResult]]:
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        waited = {
            pool.submit(check_named, entry.name, exporter, limit_s): number
            for number, (entry, exporter) in enumerate(files)
        }
        try:
            for done in as_completed(waited):
                yield waited[done], done.result()
        except BrokenProcessPool as error:
            raise TestbedError(
                "a worker was killed, or an engine ended it: run without --workers to see at which model, or with fewer"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def check_named(name: str, exporter: Exporter, limit_s: float) -> ArchitectureResult:
    """`check_model` of an architecture of the catalogue, in a process that is given its name alone."""
    (entry,) = choose(models=[name])
    return check_model(entry, exporter, limit_s)


def check_model(entry: Architecture, exporter: Exporter, limit_s: float = LIMIT_S) -> ArchitectureResult:
    """All checks of one architecture, in a folder that is gone afterwards."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="testbed-compat-") as name, ExitStack() as stack:
        folder, notes = Path(name), tuple[str, ...]()
        try:
            model = built(entry)
            file = export(model, entry, exporter, folder / "model.onnx")
        except Exception as error:  # the library's or the exporter's: there is no file that anything could be said of
            verdicts = dict.fromkeys(CHECKS, CheckVerdict(None, f"not exported: {_cause(error)}"))
        else:
            subject = CheckedExport(entry, model, file, folder, stack)
            verdicts, notes = _checked(subject, start + limit_s)
            del model, subject
    gc.collect()
    absent = tuple(f"{pattern}: {why}" for pattern, why in entry.absent.items())
    seconds = time.monotonic() - start
    return ArchitectureResult(entry.name, entry.family, entry.library, exporter, verdicts, absent, notes, seconds)


def _checked(subject: CheckedExport, until: float) -> tuple[dict[str, CheckVerdict], tuple[str, ...]]:
    """The verdict of each check, and notes. until: when no further check is begun, by the monotonic clock."""
    verdicts: dict[str, CheckVerdict] = {}
    notes: tuple[str, ...] = ()
    for name, check in MADE_BY.items():
        if verdicts and not verdicts["instrument"].holds:
            verdicts[name] = CheckVerdict(False, _FAILS_FIRST)
        elif time.monotonic() > until:
            verdicts[name] = CheckVerdict(False, "the model took too long before this check")
        else:
            verdicts[name], more = _verdict(subject, check)
            notes += more
    return verdicts, notes


def _verdict(subject: CheckedExport, check: Check) -> tuple[CheckVerdict, tuple[str, ...]]:
    try:
        with quiet():
            return CheckVerdict(True), check(subject) or ()
    except Exception as error:  # of whatever kind: it is what this cell says
        return CheckVerdict(False, _cause(error)), ()


def _cause(error: BaseException) -> str:
    """The first line of what was wrong in the first place: exporters put pages around it."""
    while error.__cause__ is not None and not isinstance(error, TestbedError):
        error = error.__cause__
    line = _STYLE.sub("", first_line(error)) if isinstance(error, Exception) else ""
    return line or type(error).__name__
