"""Latency of run folders' models as deployed: plain engines, side by side, every number with its engine's hash."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from testbed.bench.counts import deployed_macs, parameter_count
from testbed.bench.foreign import check_batches, counted_macs, deployed_request, is_of_onnx_file
from testbed.bench.timing import Budget, Ratio, interleaved, percentiles, ratio_to
from testbed.core.errors import UsageError
from testbed.core.folder.manifest import CAMPAIGN
from testbed.engines.backends import check_engine, require_engine
from testbed.engines.runner import EngineRequest, PhasedRunner, Runner, open_engine
from testbed.engines.signature import loaded
from testbed.golden.deployment import ends_of, plain_engine
from testbed.golden.recorded import working_in
from testbed.instrument.quantised import parameters
from testbed.instrument.shapes import input_shape, model_input
from testbed.models.runs import open_model_run


@dataclass(frozen=True)
class Question:
    """What is to be measured. ``batches``: images per run."""

    engine: str = "ort-cpu"
    precision: str = "fp32"
    batches: tuple[int, ...] = (1, 8, 32)
    threads: int = 1
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class LatencyRow:
    """One engine at one batch size. macs: of one image, in the deployed file. latency_ms: every run, as measured. phases:
    medians of host-to-device copy, compute and device-to-host copy, where the engine is on another device. ratio: to the
    baseline's median."""

    model: str
    engine: str
    precision: str
    engine_hash: str
    deployment_id: str
    options: dict[str, JsonValue]
    batch: int
    threads: int
    runs: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    throughput_per_s: float
    macs: int
    parameters: int
    peak_memory_mb: float
    phases_ms: dict[str, float] | None
    ratio_to_baseline: Ratio | None
    latency_ms: tuple[float, ...]

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)


@dataclass
class _Subject:
    path: Path
    runner: Runner
    image: tuple[int, ...]
    macs: int
    parameters: int
    input_name: str

    def images(self, batch: int) -> NDArray[np.float32]:
        return np.random.default_rng(0).standard_normal((batch, *self.image), np.float32)


def measure(
    paths: Sequence[Path],
    question: Question,
    baseline: Path | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> list[LatencyRow]:
    """One row per folder and batch size, in that order; folders are measured in turns, round by round.

    baseline: one of ``paths``, or a further folder; ratios are to it. Raises UsageError for a folder without a model,
    one named twice, or an unknown engine; EngineError where it cannot be built.
    """
    check_engine(question.engine, question.precision)
    require_engine(question.engine)
    wanted = [*paths] if baseline is None or baseline in paths else [baseline, *paths]
    if len(set(wanted)) < len(wanted):
        raise UsageError("a folder is named twice; name each model once")
    with ExitStack() as stack:
        subjects = [_opened(path, question, stack) for path in wanted]
        rows = [row for batch in question.batches for row in _rows(subjects, batch, question, baseline, notify)]
    order = {str(path): position for position, path in enumerate(wanted)}
    return sorted(rows, key=lambda row: (order[row.model], row.batch))


def plain_request(path: Path, *, precision: str = "fp32", threads: int = 1) -> EngineRequest:
    """The request for the engine of the file that a folder's model is deployed as, exported on first use.

    Raises UsageError for a folder without a model, or a campaign's without this precision.
    """
    run = open_model_run(path)
    if run.folder.kind == CAMPAIGN:
        return plain_engine(run, "model", precision=precision, threads=threads)
    with working_in(path) as writable:
        return plain_engine(writable, "model", precision=precision, threads=threads)


def _opened(path: Path, question: Question, stack: ExitStack) -> _Subject:
    if is_of_onnx_file(path):
        return _opened_file(path, question, stack)
    request = plain_request(path, precision=question.precision, threads=question.threads)
    runner, model = stack.enter_context(open_engine(question.engine, request)), open_model_run(path).model
    c, macs = model.config, deployed_macs(request.onnx, model.config)
    image = (c.channels, c.image, c.image)
    return _Subject(path, runner, image, macs, parameter_count(model), ends_of(request.onnx)[0])


def _opened_file(path: Path, question: Question, stack: ExitStack) -> _Subject:
    request = deployed_request(path, precision=question.precision, threads=question.threads)
    proto = loaded(request.onnx)
    check_batches(proto, path, question.batches)
    runner = stack.enter_context(open_engine(question.engine, request))
    return _Subject(path, runner, input_shape(proto), counted_macs(proto), parameters(proto), model_input(proto).name)


def _rows(
    subjects: Sequence[_Subject], batch: int, question: Question, baseline: Path | None, notify: Callable[[str], None]
) -> list[LatencyRow]:
    notify(f"batch {batch}: {len(subjects)} engine(s) in turns")
    feeds = [{subject.input_name: subject.images(batch)} for subject in subjects]
    calls = [_call(subject.runner, fed) for subject, fed in zip(subjects, feeds, strict=True)]
    samples = interleaved(calls, question.budget)
    reference = next((times for s, times in zip(subjects, samples, strict=True) if s.path == baseline), None)
    return [
        _row(subject, batch, question, times, None if reference is None else ratio_to(reference, times), fed)
        for subject, times, fed in zip(subjects, samples, feeds, strict=True)
    ]


def _call(runner: Runner, feeds: dict[str, NDArray[np.float32]]) -> Callable[[], object]:
    return lambda: runner.run(feeds)


def _row(
    subject: _Subject,
    batch: int,
    question: Question,
    latency_ms: NDArray[np.float64],
    ratio: Ratio | None,
    feeds: dict[str, NDArray[np.float32]],
) -> LatencyRow:
    info = subject.runner.info
    figures = percentiles(latency_ms)
    return LatencyRow(
        model=str(subject.path),
        engine=info.backend,
        precision=info.precision,
        engine_hash=info.hash,
        deployment_id=info.deployment_id,
        options=dict(info.options),
        batch=batch,
        threads=question.threads,
        runs=len(latency_ms),
        **figures,
        throughput_per_s=1e3 * batch * len(latency_ms) / float(latency_ms.sum()),
        macs=subject.macs,
        parameters=subject.parameters,
        peak_memory_mb=peak_memory_mb(),
        phases_ms=_phases(subject.runner, feeds),
        ratio_to_baseline=ratio,
        latency_ms=tuple(latency_ms.tolist()),
    )


def _phases(runner: Runner, feeds: dict[str, NDArray[np.float32]], runs: int = 20) -> dict[str, float] | None:
    """Medians over a few runs of their own, where the engine can tell the copies from the computation."""
    if not isinstance(runner, PhasedRunner):
        return None
    phases = [runner.phases(feeds) for _ in range(runs)]
    return {name: float(np.median([phase[name] for phase in phases])) for name in phases[0]}


def peak_memory_mb() -> float:
    """Most that this process, all its engines together, has ever held in host memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB here
