"""What `testbed bench` adds to an engine's own time: its timed call against a bare ``session.run`` loop on the same file.

Both take turns in one process, on ViT-Tiny at 224 px and on a small model, where a fixed cost weighs most.

    python tools/bench_harness.py [--json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import numpy as np

from testbed.testing import EngineRequest, ReferenceModel, open_engine, time_in_turns

MODELS = {"vit-tiny-16-224": (1, 8), "cifar10": (1, 8)}
MOST_RUNS = 2000


def measured(name: str, batch: int, seconds: float) -> dict[str, object]:
    """Ratio of the medians, harness over bare loop."""
    import onnxruntime as ort  # after the testbed, which switches its telemetry off

    reference = ReferenceModel.random(name)
    config, content = reference.config, reference.onnx()
    images = np.random.default_rng(0).standard_normal((batch, config.channels, config.image, config.image), np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    bare = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with open_engine("ort-cpu", EngineRequest.of_bytes(content, "harness")) as runner:
        feeds = {"image": images}
        times = time_in_turns(
            [lambda: bare.run(None, feeds), lambda: runner.run(feeds)], seconds=seconds, runs=MOST_RUNS
        )
    return {"model": name, "batch": batch, "runs": len(times.samples_ms[1]), "ratio": asdict(times.ratios[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0, help="per model, batch and side")
    arguments = parser.parse_args()
    rows = [measured(name, batch, arguments.seconds) for name, batches in MODELS.items() for batch in batches]
    if arguments.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    for row in rows:
        ratio = row["ratio"]
        assert isinstance(ratio, dict)
        told = f"{ratio['value']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}]"
        print(f"{row['model']}, batch {row['batch']}: harness / bare loop {told}, {row['runs']} runs")


if __name__ == "__main__":
    main()
