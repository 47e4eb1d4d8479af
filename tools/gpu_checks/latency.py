"""How long one call takes: the plain engine, and what fault ports add; ViT-Base, and its attention subnetwork."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from testbed import TestbedError
from testbed.testing import InstrumentedModel, PhasedRunner, ReferenceModel, Runner, available

from .common import Absent, Section, Setting
from .subject import BASE, SMALL, exported, random_subject

WARM_UP, LEAST_RUNS, LEAST_SECONDS, MOST_SECONDS = 10, 50, 2.0, 10.0
ON_GPU = ("torch-cuda", "ort-cuda", "tensorrt", "tensorrt-rtx")
_PERCENTILES = (50, 90, 95, 99)


def latency(setting: Setting) -> Section:
    """Per engine, precision, target and batch, the most wanted first: percentiles and every sample, in ms.

    A call takes its inputs from host memory and leaves its outputs there: the copies are in the time; `phases` tells them
    apart. The weights are random. On the CPU, a small model stands in.
    """
    backends = [backend for backend in (ON_GPU if setting.gpu else (setting.backend,)) if available(backend)[0]]
    if not backends:
        raise Absent(f"none of these engines runs here: {', '.join(ON_GPU)}")
    model = random_subject(setting, SMALL if setting.quick else BASE).reference
    cases = list(_cases(setting, backends))
    measured: list[Section] = []
    for number, (backend, precision, target, batches) in enumerate(cases):
        if setting.left_s < 10:
            return {"ok": True, "not_measured": [list(case[:3]) for case in cases[number:]], "measured": measured}
        case = {"model": SMALL if setting.quick else BASE, "target": target, "precision": precision, "backend": backend}
        measured += [case | timed for timed in _of_engine(setting, model, backend, precision, target, batches)]
        setting.tell({"measured": measured})
    failed = [f"{m['backend']} {m['target']} {m['precision']}: {m['reason']}" for m in measured if not m["ok"]]
    return {"ok": not failed, **({"reason": "; ".join(failed)} if failed else {}), "measured": measured}


def _cases(setting: Setting, backends: list[str]) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    batches = (1, 4) if setting.quick else (1, 8, 32)
    for backend in backends:
        yield backend, "fp32", "model", batches
    for precision in ("fp16", "bf16") if setting.gpu else ():
        for backend in backends:
            yield backend, precision, "model", batches
    for backend in backends:
        yield backend, "fp32", "attention", batches


def _of_engine(
    setting: Setting, model: ReferenceModel, backend: str, precision: str, target: str, batches: tuple[int, ...]
) -> Iterator[Section]:
    """The plain engine; and for the whole model its twin, without any fault."""
    try:
        plain = exported(setting, SMALL if setting.quick else BASE, model, target, precision).read_bytes()
        made = InstrumentedModel.of_onnx(plain, target, precision)
        for name in ("plain", "twin") if target == "model" else ("plain",):
            opened = made.open_plain if name == "plain" else made.open_twin
            with opened(backend, max_batch=max(batches)) as runner:
                for batch in batches:
                    images = _inputs(model, target, precision, batch)
                    feeds = {made.input_name: images} if name == "plain" else made.feeds(images)
                    yield {"engine": name, **_timed(setting, runner, feeds, batch)}
    except TestbedError as error:
        yield {"ok": False, "reason": str(error)}


def _inputs(model: ReferenceModel, target: str, precision: str, batch: int) -> NDArray:
    config = model.config
    image = (config.channels, config.image, config.image)
    shape = (batch, *(image if target == "model" else (config.tokens, config.width)))
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _timed(setting: Setting, runner: Runner, feeds: dict[str, NDArray], batch: int) -> Section:
    samples = samples_ms(runner, feeds, *((2, 5, 0.0) if setting.quick else (WARM_UP, LEAST_RUNS, LEAST_SECONDS)))
    found = {f"p{share}_ms": float(np.percentile(samples, share)) for share in _PERCENTILES}
    return {
        "ok": True,
        "batch": batch,
        "engine_hash": runner.info.hash,
        "runs": len(samples),
        **found,
        "images_per_s": 1e3 * batch / found["p50_ms"],
        **({"phases": _phases(runner, feeds)} if isinstance(runner, PhasedRunner) else {}),
        "samples_ms": [round(sample, 4) for sample in samples],
    }


def _phases(runner: PhasedRunner, feeds: dict[str, NDArray], runs: int = 10) -> dict[str, float]:
    """Median ms of each."""
    told = [runner.phases(feeds) for _ in range(runs)]
    return {name: float(np.median([phases[name] for phases in told])) for name in told[0]}


def samples_ms(
    runner: Runner, feeds: dict[str, NDArray], warm_up: int, least_runs: int, least_seconds: float
) -> list[float]:
    """At least so many runs over at least so many seconds; but no more runs once ``MOST_SECONDS`` are over."""
    for _ in range(warm_up):
        runner.run(feeds)
    samples: list[float] = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        runner.run(feeds)
        end = time.perf_counter()
        samples.append(1e3 * (end - start))
        enough = len(samples) >= least_runs and end - begin >= least_seconds
        if enough or end - begin >= MOST_SECONDS:
            return samples
