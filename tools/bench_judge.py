"""How fast outputs are judged: rows per second of the compiled judge and of the NumPy reference, in one process.

    python tools/bench_judge.py [--repeats 7] [--json]

Ten logits, and the output of the first attention module of a ViT-Tiny (197 x 192), six relative tolerances; the outputs
differ from their goldens everywhere, in a few elements (one token), or hold NaN throughout. The two take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.testing import outcome_judges

GRID = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
SIZES = {"logits": (10, 1024), "attention": (197 * 192, 128)}
TOKEN = 192


def outputs(golden: NDArray[np.float32], kind: str, rng: np.random.Generator) -> NDArray[np.float32]:
    if kind == "everywhere":
        noise = 10.0 ** rng.integers(-6, 1, (len(golden), 1)) * rng.standard_normal(golden.shape)
        return (golden + noise).astype(np.float32)
    faulty = golden.copy()
    if kind == "token":
        faulty[:, :TOKEN] += np.float32(0.1)
    else:
        faulty[:] = np.nan
    return faulty


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compared(target: str, kind: str, repeats: int) -> dict[str, Any]:
    elements, rows = SIZES[target]
    rng = np.random.default_rng(0)
    golden = rng.standard_normal((16, elements)).astype(np.float32)
    row = rng.integers(0, len(golden), rows)
    faulty, atol = outputs(golden[row], kind, rng), np.full(rows, 1e-4)
    asked: dict[str, Callable[[], Any]] = {
        name: partial(judge, faulty, golden, row, atol, 1e-4, GRID) for name, judge in outcome_judges().items()
    }
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(repeats + 1):
        for name, call in asked.items():
            taken[name].append(seconds(call))
    median = {name: statistics.median(times[1:]) for name, times in taken.items()}  # the first warms up
    return {
        "target": target,
        "elements": elements,
        "outputs": kind,
        "rows_per_second": {name: round(rows / value) for name, value in median.items()},
        "ratio": {name: round(median["numpy"] / value, 2) for name, value in median.items() if name != "numpy"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = [
        compared(target, kind, arguments.repeats) for target in SIZES for kind in ("everywhere", "token", "nonfinite")
    ]
    if arguments.json:
        print(json.dumps({"rtols": len(GRID), "repeats": arguments.repeats, "measured": found}, indent=1))
        return
    for one in found:
        speeds = ", ".join(f"{name} {value:,}/s" for name, value in one["rows_per_second"].items())
        ratios = ", ".join(f"{name} {value:.1f}x" for name, value in one["ratio"].items())
        print(f"{one['target']}, {one['elements']:,} elements, change: {one['outputs']}\n  {speeds}\n  {ratios}")


if __name__ == "__main__":
    main()
