"""Whether intervals of the rank correlation with true rates hold it, on parts whose rates are known.

    python tools/check_correlations.py [--campaigns 500] [--parts 36] [--events 200] [--design counts] [--json] [SHAPE ...]

covered   share of the campaigns whose 95 % interval holds the true Spearman correlation
estimate  mean of the estimates; measured: of the correlations with the rates as measured, which noise lowers
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

from benchmarks.rankings import DESIGNS, SHAPES, coverage  # noqa: E402

CORRELATIONS = (0.0, 0.3, 0.5, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="*", help=f"of the true rates: {', '.join(SHAPES)} (default: all)")
    parser.add_argument("--campaigns", type=int, default=500)
    parser.add_argument("--parts", type=int, default=36)
    parser.add_argument("--events", type=int, default=200, help="in all parts together")
    parser.add_argument("--design", choices=DESIGNS, default=DESIGNS[0], help="how the rates are measured")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.shape) - set(SHAPES):
        parser.error(f"unknown shape {', '.join(sorted(unknown))}; known: {', '.join(SHAPES)}")
    records = []
    for shape in arguments.shape or SHAPES:
        for correlation in CORRELATIONS:
            records.append(checked(shape, correlation, arguments))
            print(line(records[-1]), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.json:
        print(json.dumps(records, indent=1))


def checked(shape: str, correlation: float, arguments: argparse.Namespace) -> dict[str, Any]:
    design, parts, events = arguments.design, arguments.parts, arguments.events
    covered = coverage(shape, correlation, arguments.campaigns, design, parts, events)
    return {
        "shape": shape,
        "design": design,
        "correlation": correlation,
        "parts": parts,
        "events": events,
        "campaigns": arguments.campaigns,
        "covered": covered.share,
        "estimate": round(covered.estimate, 3),
        "measured": round(covered.measured, 3),
        "width": round(covered.width, 3),
    }


def line(record: dict[str, Any]) -> str:
    return (
        f"{record['shape']:<12} {record['design']:<7} true {record['correlation']:.2f}  covered {record['covered']:.3f}"
        f"  estimate {record['estimate']:+.2f}  measured {record['measured']:+.2f}  width {record['width']:.2f}"
    )


if __name__ == "__main__":
    main()
