"""Whether the estimates of adaptive campaigns are unbiased and their intervals hold, on populations that are known.

    python tools/check_estimates.py [--campaigns 4000] [--relative 0.1] [--json] [NAME ...]

bias      mean estimate less the true rate, in % of the rate, with its standard error: the worst domain
covered   share of the campaigns whose last interval holds; always: whose intervals of all looks hold: the worst domain
faults    mean number of faults; uniform: of campaigns that draw uniformly within each domain, with the same looks and stop
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library counts the cores

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if find_spec("testbed") is None:  # not installed: the checkout's
    sys.path.append(str(ROOT))

import numpy as np  # noqa: E402
from benchmarks.populations import Known, all_known  # noqa: E402

from testbed.analysis.adaptive.rule import StopRule  # noqa: E402
from testbed.analysis.adaptive.simulation import SimulatedTruth, faults_needed, play  # noqa: E402

AT_ONCE = 500  # campaigns that are played side by side
UNIFORM = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help=f"populations: {', '.join(all_known())} (default: all)")
    parser.add_argument("--campaigns", type=int, default=4000)
    parser.add_argument(
        "--relative", type=float, default=0.0, help="margins as a share of the rate (default: absolute ones)"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    known = all_known()
    if unknown := set(arguments.name) - set(known):
        parser.error(f"unknown population {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    records = []
    for name in arguments.name or known:
        records.append({"population": name, **checked(known[name], arguments.relative, arguments.campaigns)})
        print(line(records[-1]), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.json:
        print(json.dumps(records, indent=1))


def checked(known: Known, relative: float, campaigns: int) -> dict[str, Any]:
    rule = StopRule(known.floor if relative else known.margin, relative=relative)
    truth = known.truth
    played = [play(truth, rule, AT_ONCE, seed, known.deviation) for seed in range(max(1, -(-campaigns // AT_ONCE)))]
    rate = np.concatenate([some.rate for some in played])
    off = rate.mean(0) / truth.rates - 1
    error = rate.std(0, ddof=1) / np.sqrt(len(rate)) / truth.rates
    worst = int(np.argmax(np.abs(off)))
    uniform = None
    if isinstance(truth, SimulatedTruth):
        rates = truth.events / truth.frame.population
        uniform = faults_needed(truth.frame, rates, rule, "uniform", UNIFORM).mean
    return {
        "margin": rule.margin,
        "relative": relative,
        "campaigns": len(rate),
        "rate": float(truth.rates[worst]),
        "bias_percent": round(100 * float(off[worst]), 3),
        "bias_error_percent": round(100 * float(error[worst]), 3),
        "z": round(float(off[worst] / error[worst]), 2),
        "covered": float(np.mean([some.covered(truth).mean(0) for some in played], axis=0).min()),
        "always": float(np.mean([some.always.mean(0) for some in played], axis=0).min()),
        "met": float(np.mean([some.met.mean() for some in played])),
        "faults": round(float(np.mean([some.faults.mean() for some in played]))),
        "uniform": None if uniform is None else round(uniform),
    }


def line(record: dict[str, Any]) -> str:
    return (
        f"{record['population']:<17} rate {record['rate']:.5f}  bias {record['bias_percent']:+6.2f} %"
        f" +- {record['bias_error_percent']:.2f}  covered {record['covered']:.3f}  always {record['always']:.3f}"
        f"  met {record['met']:.3f}  faults {record['faults']:,}"
        + ("" if record["uniform"] is None else f"  uniform {record['uniform']:,}")
    )


if __name__ == "__main__":
    main()
