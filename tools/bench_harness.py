"""What `testbed bench` adds to an engine's own time: its timed call against a bare ``session.run`` loop on the same file.

Both take turns in one process, on ViT-Tiny at 224 px and on a small model, where a fixed cost weighs most.

    python tools/bench_harness.py [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from testbed.bench.timing import Budget, interleaved, ratio_to
from testbed.core.folder.files import sha256_bytes
from testbed.export.target import export_target
from testbed.models.presets import preset
from testbed.models.vit import ViT
from testbed.testing import EngineRequest, open_engine

MODELS = {"vit-tiny-16-224": (1, 8), "cifar10": (1, 8)}


def measured(name: str, batch: int, budget: Budget) -> dict[str, object]:
    """Ratio of the medians, harness over bare loop."""
    import onnxruntime as ort  # after the testbed, which switches its telemetry off

    config = preset(name)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_target(ViT(config).eval(), "model", file)
        content = file.read_bytes()
    images = np.random.default_rng(0).standard_normal((batch, config.channels, config.image, config.image), np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    bare = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with open_engine("ort-cpu", EngineRequest(content, sha256_bytes(content), "harness")) as runner:
        feeds = {"image": images}
        plain, ours = interleaved([lambda: bare.run(None, feeds), lambda: runner.run(feeds)], budget)
    return {"model": name, "batch": batch, "runs": len(ours), "ratio": asdict(ratio_to(plain, ours))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0, help="per model, batch and side")
    arguments = parser.parse_args()
    budget = Budget(seconds=arguments.seconds, runs=2000)
    rows = [measured(name, batch, budget) for name, batches in MODELS.items() for batch in batches]
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
