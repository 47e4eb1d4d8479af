"""Injections per CPU-second against PyTorchFI 0.6.0 (and MRFI), on the same faults: site, bit and image.

    python tools/bench_pytorchfi.py [--model tiny|small|base|PRESET] [--run DIR] [--quick] [--json]

Three workloads: flips in the outputs of linear layers (neuron), in their weights (weight), and in the outputs of those of
the first attention module, alone (attention). Both sides run one thread, take turns in one process, and judge every
output against their own golden: tolerance and top-1. First their verdicts are compared; every disagreement is listed.

What is timed of each side is said in benchmarks/ours.py, benchmarks/peer_pytorchfi.py and benchmarks/peer_mrfi.py.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library counts the cores

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if find_spec("testbed") is None:  # not installed: the checkout's
    sys.path.append(str(ROOT))

import torch  # noqa: E402
from benchmarks import attention_module, peer_mrfi, peer_pytorchfi, weight, whole_model  # noqa: E402
from benchmarks.ours import opened  # noqa: E402
from benchmarks.setting import Setting  # noqa: E402
from benchmarks.subject import subject  # noqa: E402
from benchmarks.verdict import Tolerance  # noqa: E402

from testbed import TestbedError, diagnose  # noqa: E402

WORKLOADS = ("neuron", "weight", "attention")
FAULTS = {"neuron": 640, "weight": 40, "attention": 8000}
QUICK_FAULTS = {"neuron": 160, "weight": 10, "attention": 2000}
HEAVIER = {"small": 2, "base": 8}  # larger models get so many times fewer faults
REPEATS, IMAGES, QUICK_IMAGES = 5, 16, 8
QUICK_BATCH = 1  # a short list spread over many sites fills no larger one
AGREEMENT = 0.99  # of outcomes; below it, the ratios compare nothing


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    try:
        report = benchmark(arguments)
    except TestbedError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(report, indent=1) if arguments.json else text(report))
    if report["outcome_agreement_of_finite"] < AGREEMENT:
        told(text(report))
        sys.exit(
            f"error: only {report['outcome_agreement_of_finite']:.2%} of the outcomes agree; ratios compare nothing"
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, small, base (224 px), or a preset's name")
    parser.add_argument("--run", type=Path, help="a trained model's run folder, instead of random weights")
    parser.add_argument("--engine", action="append", help="ours, repeatable (default: ort-cpu and openvino)")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="repeatable (default: all three)")
    parser.add_argument("--quick", action="store_true", help="fewer faults: under five minutes on two cores")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"default {REPEATS}")
    parser.add_argument("--faults", type=int, help="of the neuron workload; the others follow in proportion")
    parser.add_argument("--images", type=int, help=f"default {IMAGES}, {QUICK_IMAGES} if --quick")
    parser.add_argument(
        "--batch", type=int, help=f"ours (default: tuned, as a campaign does; {QUICK_BATCH} if --quick)"
    )
    parser.add_argument("--evaluation", choices=("fastest", "whole"), default="fastest")
    parser.add_argument("--atol", type=float, default=1e-4, help="tolerance of both sides' verdicts (default 1e-4)")
    parser.add_argument("--rtol", type=float, default=1e-4, help="default 1e-4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the whole record instead of a summary")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    return arguments


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    if not peer_pytorchfi.available():
        raise TestbedError(peer_pytorchfi.MISSING)
    workloads = arguments.workload or list(WORKLOADS)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        images = arguments.images or (QUICK_IMAGES if arguments.quick else IMAGES)
        shown = subject(arguments.model, arguments.run, images, arguments.seed, Path(folder) / "subject")
        tolerance = Tolerance(arguments.atol, arguments.rtol)
        engines, batch = {}, arguments.batch or (QUICK_BATCH if arguments.quick else "auto")
        for name in arguments.engine or ("ort-cpu", "openvino"):
            told(f"preparing {name}: export, golden, gates")
            engines[name] = stack.enter_context(opened(shown, name, batch, tolerance, Path(folder) / name))
        setting = Setting(shown, engines, tolerance, fault_counts(arguments), arguments.repeats, arguments.seed, told)
        found: dict[str, Any] = {}
        if "neuron" in workloads:
            told("neuron faults of the whole model")
            found["neuron"] = whole_model.run(setting)
        if "weight" in workloads:
            told("weight faults")
            found["weight"] = weight.run(setting, found.get("neuron", {}).get("peer_best_batch", 8))
        if "attention" in workloads:
            told("neuron faults of the first attention module")
            found["attention"] = attention_module.run(setting)
        return report_of(arguments, setting, found)


def fault_counts(arguments: argparse.Namespace) -> dict[str, int]:
    """At least one fault for each repeat."""
    counts = QUICK_FAULTS if arguments.quick else FAULTS
    asked = (arguments.faults or counts["neuron"] / HEAVIER.get(arguments.model, 1)) / counts["neuron"]
    return {name: max(arguments.repeats, round(count * asked)) for name, count in counts.items()}


def report_of(arguments: argparse.Namespace, setting: Setting, found: dict[str, Any]) -> dict[str, Any]:
    """What the issue of this benchmark is asked first, then all that explains it; raw timings last."""
    raw = {name: mine.pop("sides") for name, mine in found.items()}
    engines = [mine["agreement"][name] for mine in found.values() for name in setting.engines]
    return {
        "model": arguments.run.name if arguments.run else arguments.model,
        "threads": 1,
        "outcome_agreement": min(one["agreement"] for one in engines),
        "outcome_agreement_of_finite": min(one["agreement_of_finite"] for one in engines),
        **found,
        "repeats": arguments.repeats,
        "subject": setting.subject.told,
        "images": setting.subject.images,
        "tolerance": {"atol": arguments.atol, "rtol": arguments.rtol},
        "engines": {
            name: {"batch": ours.batch, "setup_cpu_seconds": round(ours.setup_cpu_seconds, 1)}
            for name, ours in setting.engines.items()
        },
        "peers": {name: version(name) for name in ("pytorchfi", "mrfi")} | {"mrfi_missing": mrfi_missing()},
        "versions": {name: version(name) for name in ("torch", "onnxruntime-gpu", "onnxruntime", "openvino", "numpy")},
        "processor": diagnose().host.cpu,
        "counted": {
            "ours": " ".join((sys.modules["benchmarks.ours"].__doc__ or "").split()),
            "pytorchfi": " ".join((peer_pytorchfi.__doc__ or "").split()),
            "mrfi": " ".join((peer_mrfi.__doc__ or "").split()),
        },
        "raw": raw,
    }


def mrfi_missing() -> str | None:
    return None if peer_mrfi.available() else peer_mrfi.MISSING


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def text(report: dict[str, Any]) -> str:
    """The record for people."""
    lines = [
        f"{report['model']}, 1 thread, {report['repeats']} repeats, medians [quartiles]; {report['processor']}",
        report["subject"],
        f"outcomes agree: {report['outcome_agreement']:.2%}; where both outputs are finite, or neither is:"
        f" {report['outcome_agreement_of_finite']:.2%}",
    ]
    lines += [f"mrfi: {report['peers']['mrfi_missing']}"] if report["peers"]["mrfi_missing"] else []
    for name in WORKLOADS:
        if name in report:
            lines += ["", f"{name}: {report[name]['faults']} faults"]
            lines += [
                f"  {side:44} {told(one['per_cpu_second'])} per CPU-second"
                for side, one in report["raw"][name].items()
                for told in (quartiles,)
            ]
            lines += [f"  {key:28} {value}" for key, value in headline(report[name]).items()]
            lines += [
                f"  evaluations {engine}: {shares}" for engine, shares in report[name].get("evaluations", {}).items()
            ]
            lines += disagreements(report[name])
    return "\n".join(lines)


def headline(workload: dict[str, Any]) -> dict[str, Any]:
    plain = {
        key: value for key, value in workload.items() if "ratio" in key or "ceiling_share" in key or key == "engine"
    }
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in plain.items() if not isinstance(v, dict)}


def quartiles(one: dict[str, float]) -> str:
    return f"{one['median']:9.1f} [{one['quartile_low']:.1f}, {one['quartile_high']:.1f}]"


def disagreements(workload: dict[str, Any]) -> list[str]:
    return [
        f"  disagreement ({engine}): {case}"
        for engine, one in workload["agreement"].items()
        if engine != "peers"
        for case in one["disagreements"]
    ]


def told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
