"""Time to +-1 point at 95 % for the SDC-1 rate of every block: our adaptive campaign against uniform sampling.

    python tools/bench_confidence.py [--relative 0.1] [--where weight] [--model tiny] [--run DIR] [--quick] [--json]

The faults are single bit flips in outputs of the linear layers (what PyTorchFI can strike), of the images shown; or in their
weights, where other designs run each fault on all images. With --relative every rate is known to that share of it, or to
--margin (0.05 points then) where that is wider; with --quick to twice that share, which takes a quarter of the faults of every
design, and rates are measured on fewer faults.

ratio             PyTorchFI at its best batch running Leveugle's n per block, over our campaign: at p = 0.5, or, for a relative
                  margin, at the rates that our campaign found
ratio_pytorchfi   PyTorchFI at its best batch running uniform sampling with our stopping rule, over our campaign
ratio_same_stop   uniform sampling with our stopping rule, on our engine, over our campaign: the sampling alone
ratio_engine      our engine over PyTorchFI's best batch on the same faults: the engine alone

Our campaign is run, to its end: planning, opening the engines, golden words, inference, judgement, rows, looks. PyTorchFI's
rate is measured, its n computed. The uniform campaign's n is simulated from the blocks' measured rates, its time from our
measured time per uniformly drawn fault of each block. All times are CPU-seconds of one thread. What is done once before
(export, gates) is not counted, but in ratios "with_preparation", which both sides of ratio_same_stop pay.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library counts the cores

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if find_spec("testbed") is None:  # not installed: the checkout's
    sys.path.append(str(ROOT))

import torch  # noqa: E402
from benchmarks import adaptive, fault_rates, peer_pytorchfi  # noqa: E402
from benchmarks.faults import linear_layers  # noqa: E402
from benchmarks.ours import Ours, opened  # noqa: E402
from benchmarks.setting import Setting  # noqa: E402
from benchmarks.subject import subject  # noqa: E402
from benchmarks.verdict import Tolerance  # noqa: E402

from testbed import TestbedError  # noqa: E402

WEIGHT_SHARE = 20  # weight faults of which rates are measured, one for so many neuron faults: each is run on all images
FAULTS, QUICK_FAULTS = 640, 200
QUICK_SHARE = 2  # times the relative margin
REPEATS = 5


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    try:
        report = benchmark(arguments)
    except TestbedError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(report, indent=1) if arguments.json else text(report))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, small, base (224 px), or a preset's name")
    parser.add_argument("--run", type=Path, help="a trained model's run folder, instead of random weights")
    parser.add_argument("--engine", action="append", help="ours, repeatable (default: ort-cpu and openvino)")
    parser.add_argument(
        "--margin", type=float, help="half the width of every interval (default 0.01; with --relative 0.0005)"
    )
    parser.add_argument("--relative", type=float, help="half the width as a share of the rate, such as 0.1")
    parser.add_argument("--where", choices=("activation", "weight"), default="activation", help="default activation")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="rates from fewer faults, and twice the relative margin; still a whole campaign",
    )
    parser.add_argument("--faults", type=int, help="that rates are measured on")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"default {REPEATS}")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, help="ours (default: tuned, as a campaign does)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick and arguments.relative is not None and arguments.relative * QUICK_SHARE >= 1:
        parser.error(
            f"--quick runs to {QUICK_SHARE} times --relative {arguments.relative:g}: give less than {1 / QUICK_SHARE:g}"
        )
    return arguments


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    if not peer_pytorchfi.available():
        raise TestbedError(peer_pytorchfi.MISSING)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shown = subject(arguments.model, arguments.run, arguments.images, arguments.seed, Path(folder) / "subject")
        tolerance, engines = Tolerance(1e-4, 1e-4), {}
        margin = 0.01 if arguments.margin is None and arguments.relative is None else arguments.margin
        relative = arguments.relative
        if relative is not None and arguments.quick:
            relative *= QUICK_SHARE
        asked = (margin, arguments.confidence, relative, arguments.where)
        special = adaptive.spec_of(*asked, all_images=arguments.where == "weight")
        for name in arguments.engine or ("ort-cpu", "openvino"):
            told(f"preparing {name}: export, golden, gates")
            engines[name] = stack.enter_context(
                opened(shown, name, arguments.batch or "auto", tolerance, Path(folder) / name, special)
            )
        count = arguments.faults or (QUICK_FAULTS if arguments.quick else FAULTS)
        setting = Setting(
            shown,
            engines,
            tolerance,
            {"neuron": count, "block": max(1, count // 5), "weight": max(1, count // WEIGHT_SHARE)},
            arguments.repeats,
            arguments.seed,
            told,
        )
        again = partial(
            opened, shown, batch=arguments.batch or "auto", tolerance=tolerance, special=adaptive.spec_of(*asked)
        )
        return compared(setting, arguments.where, Path(folder), again)


def compared(
    setting: Setting, where: str, folder: Path, again: Callable[..., AbstractContextManager[Ours]]
) -> dict[str, Any]:
    """The record. again: opens a campaign of its own for weight faults, whose engines are of other batches than those that run
    every fault on all images."""
    layers, images = linear_layers(setting.subject.config), setting.subject.images
    rate = fault_rates.of_neurons(setting, layers) if where == "activation" else fault_rates.of_weights(setting, layers)
    for other in setting.engines.values():
        other.campaign.release()
    told(f"the adaptive campaign, on {rate['engine']}")
    with ExitStack() as stack:
        ours, place = setting.engines[rate["engine"]], folder / rate["engine"]
        if where == "weight":
            place = folder / "some images"
            ours = stack.enter_context(again(backend=rate["engine"], folder=place))
        campaign = adaptive.run(ours, place)
        stop = ours.campaign.spec.stop
        confidence = ours.campaign.spec.confidence

    assert stop is not None
    rule = stop.rule(confidence)
    population = adaptive.populations(layers, setting.subject.config.tokens, images, where)
    leveugle = adaptive.leveugle_sizes(population, rule, campaign.rate)
    if where == "activation":
        uniform, rows_each = adaptive.uniform_sizes(population, campaign.rate, rule, setting.seed), 1
    else:
        clusters = (campaign.correlation, images, rule, setting.seed)
        uniform, rows_each = adaptive.uniform_weight_sizes(population, campaign.rate, *clusters), images
    peer_seconds = float(leveugle.sum() * rows_each / rate["pytorchfi_best_batch"])
    peer_uniform_seconds = float(uniform.sum() * rows_each / rate["pytorchfi_best_batch"])
    uniform_seconds = float((uniform * rate["seconds_per_fault"]).sum())
    prepared, cpu = ours.setup_cpu_seconds, campaign.cpu_seconds
    blocks = sorted({layer.block for layer in layers})
    return {
        "model": setting.subject.reference.name,
        "where": where,
        "margin": rule.margin,
        "relative": rule.relative or None,
        "confidence": rule.confidence,
        "ratio": peer_seconds / cpu,
        "ratio_same_stop": uniform_seconds / cpu,
        "ratio_same_stop_with_preparation": (uniform_seconds + prepared) / (cpu + prepared),
        "ratio_engine": rate["ratio_engine"].median,
        "ratio_with_preparation": peer_seconds / (cpu + prepared),
        "ratio_batch1": float(leveugle.sum() * rows_each / rate["pytorchfi_batch_1"]) / cpu,
        "ratio_pytorchfi": peer_uniform_seconds / cpu,
        "ratio_pytorchfi_with_preparation": peer_uniform_seconds / (cpu + prepared),
        "blocks": [
            {
                "block": block,
                "rate": float(campaign.rate[i]),
                "low": float(campaign.low[i]),
                "high": float(campaign.high[i]),
                "n": int(campaign.n[i]),
                "n_leveugle": int(leveugle[i]),
                "n_uniform_same_stop": round(float(uniform[i])),
                "population": int(population[i]),
            }
            for i, block in enumerate(blocks)
        ],
        "margin_met": campaign.met,
        "rounds": campaign.rounds,
        "rows": {"adaptive": campaign.rows, "uniform_same_stop": round(float(uniform.sum()) * rows_each)},
        "correlation": campaign.correlation.tolist() if where == "weight" else None,
        "faults": {
            "adaptive": int(campaign.n.sum()),
            "leveugle": int(leveugle.sum()),
            "uniform_same_stop": round(float(uniform.sum())),
        },
        "cpu_seconds": {
            "adaptive": campaign.cpu_seconds,
            "adaptive_wall": campaign.wall_seconds,
            "adaptive_engine": campaign.engine_seconds,
            "leveugle_pytorchfi": peer_seconds,
            "uniform_same_stop": uniform_seconds,
        },
        "engine": rate["engine"],
        "threads": 1,
        "repeats": setting.repeats,
        "how": {"adaptive": "run", "leveugle": "computed from the measured rate", "uniform_same_stop": "simulated"},
        "subject": setting.subject.told,
        "setup_cpu_seconds": {name: round(one.setup_cpu_seconds, 1) for name, one in setting.engines.items()},
        "ratio_engine_quartiles": rate["ratio_engine"].record(),
        "raw": rate["raw"],
    }


def text(report: dict[str, Any]) -> str:
    share = "" if report["relative"] is None else f"{report['relative']:.0%} of it, or "
    lines = [
        f"{report['model']}, flips in {report['where']}s: SDC-1 rate of every block to +-{share}{report['margin']:.2%} at"
        f" {report['confidence']:.0%}, 1 thread",
        report["subject"],
        f"{report['ratio']:8.1f}x  against PyTorchFI's best batch with Leveugle's n"
        f" ({report['faults']['leveugle']} faults, {report['cpu_seconds']['leveugle_pytorchfi']:.0f} CPU-seconds)",
        f"{report['ratio_same_stop']:8.1f}x  against uniform sampling with the same stopping rule"
        f" ({report['faults']['uniform_same_stop']} faults, {report['cpu_seconds']['uniform_same_stop']:.0f} CPU-seconds)",
        f"{report['ratio_pytorchfi']:8.1f}x  against PyTorchFI's best batch with uniform sampling and the same stopping rule;"
        f" {report['ratio_pytorchfi_with_preparation']:.1f}x with export and gates",
        f"{report['ratio_engine']:8.1f}x  the engine ({report['engine']}) alone",
        f"our campaign: {report['faults']['adaptive']} faults, {report['rows']['adaptive']} rows,"
        f" {report['cpu_seconds']['adaptive']:.0f} CPU-seconds,"
        f" {report['rounds']} rounds, margin {'met' if report['margin_met'] else 'NOT met'}",
        "block     rate   interval            n   uniform  Leveugle",
    ]
    lines += [
        f"{b['block']:5d} {b['rate']:8.4f}   [{b['low']:.4f}, {b['high']:.4f}] {b['n']:6d} {b['n_uniform_same_stop']:9d}"
        f" {b['n_leveugle']:9d}"
        for b in report["blocks"]
    ]
    return "\n".join(lines)


def told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
