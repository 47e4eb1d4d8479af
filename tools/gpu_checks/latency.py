"""How long one call of a plain engine takes: the attention subnetwork of ViT-Base, and ViT-Base itself."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from testbed.core.errors import TestbedError
from testbed.engines.availability import available
from testbed.engines.runner import EngineRequest, Runner, open_engine, request_from
from testbed.engines.signature import loaded, signature_of
from testbed.export.target import export_target
from testbed.instrument.table import deployment_id
from testbed.models.presets import preset
from testbed.models.vit import ViT

from .common import Absent, Section, Setting

WARM_UP, LEAST_RUNS, LEAST_SECONDS, MOST_SECONDS = 20, 100, 3.0, 30.0
ON_GPU = ("ort-cuda", "torch-cuda", "tensorrt", "tensorrt-rtx")


def latency(setting: Setting) -> Section:
    """Per engine, target, precision and batch: percentiles and every sample, in ms. The weights are random.

    A call takes its inputs from host memory and leaves its outputs there: the copies are in the time. On the CPU, a small
    model stands in.
    """
    backends = [backend for backend in (ON_GPU if setting.gpu else ("ort-cpu",)) if available(backend)[0]]
    if not backends:
        raise Absent(f"none of these engines runs here: {', '.join(ON_GPU)}")
    name = "vit-base-16-224" if setting.gpu and not setting.quick else "digits"
    torch.manual_seed(0)
    model = ViT(preset(name)).eval()
    measured: list[Section] = []
    for precision in ("fp32", "fp16") if setting.gpu else ("fp32",):
        for target in ("attention", "model"):
            path = setting.folder / f"{target}.{precision}.onnx"
            export_target(model, target, path, precision=precision)
            for backend in backends:
                case = {"model": name, "target": target, "precision": precision, "backend": backend}
                measured += [case | timed for timed in _of_engine(setting, backend, path, precision)]
    failed = [f"{m['backend']} {m['target']} {m['precision']}: {m['reason']}" for m in measured if not m["ok"]]
    return {"ok": not failed, **({"reason": "; ".join(failed)} if failed else {}), "measured": measured}


def _of_engine(setting: Setting, backend: str, path: Path, precision: str) -> list[Section]:
    batches = (1, 8, 32) if setting.gpu else (1, 4)
    request = request_from(path, deployment_id(path.read_bytes()), precision=precision, max_batch=max(batches))
    try:
        with open_engine(backend, request) as runner:
            return [_timed(setting, runner, _feeds(request, batch), batch) for batch in batches]
    except TestbedError as error:
        return [{"ok": False, "reason": str(error)}]


def _feeds(request: EngineRequest, batch: int) -> dict[str, NDArray]:
    (value,) = signature_of(loaded(request.onnx)).inputs
    shape = (batch, *(size for size in value.shape[1:] if isinstance(size, int)))
    return {value.name: np.random.default_rng(0).standard_normal(shape).astype(value.dtype)}


def _timed(setting: Setting, runner: Runner, feeds: dict[str, NDArray], batch: int) -> Section:
    samples = samples_ms(runner, feeds, *((2, 5, 0.0) if setting.quick else (WARM_UP, LEAST_RUNS, LEAST_SECONDS)))
    p50, p90, p99 = (float(value) for value in np.percentile(samples, [50, 90, 99]))
    return {
        "ok": True,
        "batch": batch,
        "engine_hash": runner.info.hash,
        "runs": len(samples),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "images_per_s": 1e3 * batch / p50,
        "samples_ms": [round(sample, 6) for sample in samples],
    }


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
