"""What a campaign takes besides its engine, and how it scales: the same faults with ``--workers`` 0, 1, 2 and more.

    python tools/bench_workers.py [--size digits d6 tiny] [--workers 0 1 2] [--run DIR] [--repeats 3] [--quick] [--json]

Sizes: campaigns/digits.toml; flips of activations in a six-block ViT on 32 px (``--run``: a trained model's folder instead of
random weights), and in ViT-Tiny on 224 px. Each is prepared once; then all numbers of workers take turns, and rows are
compared bit for bit. With 0 workers this process runs the faults.

Told of the execution of faults, from opening workers to the finished table: wall time, times workers, over seconds in the
engine, as the manifest has them; with 0 workers also processor seconds over those of the engine, which other programs of
the machine disturb less, of all threads and of the one that runs the engine: what wall time comes to where another core is
free; processor seconds of all processes; and rows per second against those of one worker.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library counts the cores

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from bench_units import processor_s, same
from benchmarks.subject import subject

import testbed
from testbed import CampaignSpec, diagnose
from testbed.campaign.pipeline import Campaign

SIZES = ("digits", "d6", "tiny")
DIGITS = Path(__file__).resolve().parents[1] / "campaigns" / "digits.toml"
PRESETS = {"d6": "cifar10", "tiny": "vit-tiny-16-224"}
IMAGES, BATCH = {"d6": 64, "tiny": 16}, {"d6": 32, "tiny": 8}
FLIPS = {"d6": 4, "tiny": 1}  # per site and bit
BITS: dict[str, str | list[int]] = {"d6": "all", "tiny": [3, 12, 22, 24, 27, 30, 31]}
QUICK_SITES, QUICK_BITS = ["*.mlp.fc1"], [3, 30]
GATES = {"zero_fault_rows": 64, "parity_max_abs": 1e-3, "drift_max_abs": 1e-4}


class Cost(NamedTuple):
    """Of the execution of faults, in seconds. thread_s, engine_processor_s: processor time of the thread that runs faults, and
    of its engine; None where other processes ran them."""

    wall_s: float
    engine_s: float
    processor_s: float
    thread_s: float | None
    engine_processor_s: float | None


class Clock:
    """Processor seconds of the execution of faults: of all processes, of this thread, and of its engine."""

    def __init__(self) -> None:
        self.all_s = self.thread_s = self.engine_s = self._in_engine_s = 0.0

    def execution(self, run: Callable[..., None]) -> Callable[..., None]:
        def timed(*values: Any) -> None:
            start, of_thread, before = processor_s(), time.thread_time(), self._in_engine_s
            run(*values)
            self.thread_s, self.engine_s = time.thread_time() - of_thread, self._in_engine_s - before
            self.all_s = processor_s() - start

        return timed

    def engine(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any, **named: Any) -> Any:
            start = time.thread_time()  # engines have one thread; others keep rows meanwhile
            try:
                return run(*values, **named)
            finally:
                self._in_engine_s += time.thread_time() - start

        return timed


@contextmanager
def clocked() -> Iterator[Clock]:
    import onnxruntime

    clock, kept = Clock(), (Campaign.execute, onnxruntime.InferenceSession.run)
    Campaign.execute = clock.execution(kept[0])  # type: ignore[method-assign]
    onnxruntime.InferenceSession.run = clock.engine(kept[1])
    try:
        yield clock
    finally:
        Campaign.execute, onnxruntime.InferenceSession.run = kept  # type: ignore[method-assign]


def executed(spec: CampaignSpec, folder: Path, workers: int) -> Cost:
    """Runs the faults anew in a folder where everything before is made."""
    with clocked() as clock:
        testbed.run(spec, folder, redo="execute", workers=workers).close()
    facts = json.loads((folder / "manifest.json").read_text())["stages"]["execute"]["facts"]
    wall_s, engine_s = float(facts["wall_seconds"]), float(facts["engine_seconds"])
    here = (clock.thread_s, clock.engine_s) if workers == 0 else (None, None)
    return Cost(wall_s, engine_s, clock.all_s, *here)


def spec_of(size: str, run: Path | None, quick: bool, folder: Path) -> CampaignSpec:
    """The campaign of a size; models with random weights are written to ``folder``."""
    if size == "digits":
        spec = testbed.load_spec(DIGITS)
        return spec.model_copy(update={"faults": spec.faults[2:3]}) if quick else spec
    images = IMAGES[size]
    trained = run if size == "d6" else None
    shown = subject(PRESETS[size], trained, images, 0, folder)
    quickly = {"sites": QUICK_SITES, "bits": QUICK_BITS} if quick else {"bits": BITS[size]}
    return testbed.load_spec(
        {
            "name": f"workers-{size}",
            "model": {"run": str(shown.run)},
            "tiers": {"edges": [1.0], "images": [images]},
            "engine": {"backend": "ort-cpu", "batch": BATCH[size], "threads": 1},
            "gates": GATES,
            "tolerance": {"atol": 1e-4, "rtol": 1e-4},
            "faults": [
                {"target": "model", "where": "activation", "ops": ["flip"], "per_stratum": FLIPS[size], **quickly}
            ],
        }
    )


def measured(size: str, arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    spec, folder = spec_of(size, arguments.run, arguments.quick, place / f"{size}-model"), place / size
    say(f"{size}: preparing, and running once")
    testbed.run(spec, folder, workers=0).close()
    first = pq.read_table(folder / "results.parquet")
    costs: dict[int, list[Cost]] = {workers: [] for workers in arguments.workers}
    alike = True
    for repeat in range(arguments.repeats):
        for workers in arguments.workers if repeat % 2 == 0 else arguments.workers[::-1]:
            costs[workers].append(executed(spec, folder, workers))
            alike &= same(pq.read_table(folder / "results.parquet").select(COMPARED), first.select(COMPARED))
            say(f"{size}, {workers} workers: {costs[workers][-1]}")
    rows = first.num_rows
    return {
        "rows": rows,
        "same_rows": alike,
        "workers": {workers: described(rows, workers, of_workers) for workers, of_workers in costs.items()},
        "scaling": scaling({workers: statistics.median(c.wall_s for c in some) for workers, some in costs.items()}),
    }


COMPARED = ["fault_id", "image_id", "golden_word", "faulty_word", "outcome", "logits", "masking_atol", "max_abs_diff"]


def described(rows: int, workers: int, costs: Sequence[Cost]) -> dict[str, Any]:
    """Medians of the repeats, and what they are of."""
    wall = statistics.median(cost.wall_s for cost in costs)
    processor = [cost.processor_s / cost.engine_processor_s for cost in costs if cost.engine_processor_s]
    thread = [cost.thread_s / cost.engine_processor_s for cost in costs if cost.thread_s and cost.engine_processor_s]
    return {
        "rows_per_second": rows / wall,
        "wall_over_engine": statistics.median(cost.wall_s * max(1, workers) / cost.engine_s for cost in costs),
        "processor_over_engine": statistics.median(processor) if processor else None,
        "thread_over_engine": statistics.median(thread) if thread else None,
        "processor_seconds": statistics.median(cost.processor_s for cost in costs),
        "seconds": [cost._asdict() for cost in costs],
    }


def scaling(wall: Mapping[int, float]) -> dict[int, float]:
    """Rows per second against those of one worker."""
    return {workers: wall[1] / seconds for workers, seconds in wall.items()} if 1 in wall else {}


def text(report: Mapping[str, Any]) -> str:
    lines = [f"{report['processor']}, {report['cores']} cores; medians of {report['repeats']} repeats"]
    for size, of_size in report["sizes"].items():
        lines.append(f"{size}: {of_size['rows']:,} rows, the same for all: {of_size['same_rows']}")
        for workers, told in of_size["workers"].items():
            processor, thread = told["processor_over_engine"], told["thread_over_engine"]
            faster = of_size["scaling"].get(workers)
            lines.append(
                f"  {workers} workers {told['rows_per_second']:9,.0f} rows/s, wall/engine {told['wall_over_engine']:.2f}"
                + ("" if processor is None else f", processor/engine {processor:.2f}")
                + ("" if thread is None else f", of the engine's thread {thread:.2f}")
                + f", {told['processor_seconds']:.1f} processor seconds"
                + ("" if faster is None else f", {faster:.2f} of one worker's rate")
            )
    return "\n".join(lines)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--workers", nargs="+", type=int, default=sorted({0, 1, 2, cores}), help="default: 0, 1, 2, cores"
    )
    parser.add_argument("--run", type=Path, help="folder of a trained model for the size d6")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few faults: fixed costs weigh more than in a campaign")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-workers-") as place:
        sizes = {size: measured(size, arguments, Path(place)) for size in arguments.size}
    report = {"processor": diagnose().host.cpu, "cores": cores, "repeats": arguments.repeats, "sizes": sizes}
    print(json.dumps(report, indent=1) if arguments.json else text(report))


if __name__ == "__main__":
    main()
