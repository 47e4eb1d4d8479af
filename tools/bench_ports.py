"""What instrumentation costs: latency of the twin over the plain engine's, per mechanism, number of sites and batch.

    python tools/bench_ports.py [--preset vit-tiny-16-224] [--quick] [--json]

Plain and twin engines take turns in one process, so that the ratio holds while the machine's speed drifts; medians of the
pairwise ratios, with quartiles. No fault is armed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np

from testbed import TestbedError
from testbed.testing import InstrumentedModel, ReferenceModel, Runner

MECHANISMS = ("gated_replace", "xor", "op")


def seconds(runner: Runner, feeds: dict[str, Any]) -> float:
    start = time.perf_counter()
    runner.run(feeds)
    return time.perf_counter() - start


def measured(plain: Runner, twin: Runner, image: np.ndarray, ports: dict[str, Any], repeats: int) -> dict[str, float]:
    for _ in range(3):
        plain.run({"image": image})
        twin.run({"image": image, **ports})
    ratios = []
    for _ in range(repeats):
        alone = seconds(plain, {"image": image})
        ratios.append(seconds(twin, {"image": image, **ports}) / alone)
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "ratio": round(float(median), 3),
        "quartile_low": round(float(low), 3),
        "quartile_high": round(float(high), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vit-tiny-16-224")
    parser.add_argument("--engine", default="ort-cpu")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, batch 1 only")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    reference = ReferenceModel.random(arguments.preset)
    config, content = reference.config, reference.onnx()
    total = len(InstrumentedModel.of_onnx(content).sites.ports)
    rows = []
    for batch in (1,) if arguments.quick else (1, 32):
        image = (
            np.random.default_rng(0).standard_normal((batch, config.channels, config.image, config.image)).astype("f4")
        )
        repeats = (7 if arguments.quick else 40) if batch == 1 else 7
        for mechanism in MECHANISMS:
            for count in (1, 12, None):
                sites = min(count or total, total)
                row: dict[str, Any] = {"mechanism": mechanism, "sites": sites, "batch": batch, "repeats": repeats}
                try:
                    made = InstrumentedModel.of_onnx(content, ports=mechanism, most_ports=count)
                    with made.open_plain(arguments.engine) as plain, made.open_twin(arguments.engine) as twin:
                        feeds = made.feeds(image)
                        ports = {name: values for name, values in feeds.items() if name != made.input_name}
                        row |= measured(plain, twin, image, ports, repeats)
                except TestbedError as error:
                    row["error"] = str(error)
                rows.append(row)
                print(row, file=sys.stderr)
    if arguments.json:
        print(
            json.dumps({"preset": arguments.preset, "engine": arguments.engine, "threads": 1, "rows": rows}, indent=1)
        )
        return
    for row in rows:
        told = row.get("error") or f"{row['ratio']:.3f} [{row['quartile_low']:.3f}, {row['quartile_high']:.3f}]"
        print(f"{row['mechanism']:14} {row['sites']:4d} sites  batch {row['batch']:3d}  twin / plain {told}")


if __name__ == "__main__":
    main()
