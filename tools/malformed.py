"""Gives the command line thousands of malformed inputs: no traceback, no hang, no more memory than said, whatever they are.

Specs, ONNX files, weights, goldens, run folders and result files are made from sound ones by seeded edits: sizes and nesting
beyond reason, other types, hostile text, damaged bytes, archives that lie. Case number N of a seed is always the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT)]
os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy: and no threads, so that forks are safe

import numpy as np  # noqa: E402
from malformed_inputs import folders, onnx_files, spec_files, weight_files  # noqa: E402
from malformed_inputs.case import Base, Case, Cases  # noqa: E402
from malformed_inputs.running import Outcome, run_case, warm  # noqa: E402
from malformed_inputs.sound import made  # noqa: E402

OK, NOT_OK = 0, 3
KINDS: dict[str, tuple[Cases, float]] = {
    "spec": (spec_files.cases, 0.25),
    "onnx": (onnx_files.cases, 0.2),
    "weights": (weight_files.cases, 0.15),
    "golden": (folders.goldens, 0.1),
    "run folder": (folders.run_folders, 0.2),
    "results": (folders.results, 0.1),
}
EXAMPLES = """
examples:
  python tools/malformed.py                               2,000 inputs, all kinds
  python tools/malformed.py --count 100 --kind onnx --keep wrong
  python tools/malformed.py --kind spec --only 17         one case, by its number

exit status: 0 all well; 3 an input brought about a traceback, a hang, or too much memory
"""


def cases_of(kind: str, base: Base, count: int, seed: int) -> Iterator[Case]:
    """The first ``count`` of a kind."""
    make = KINDS[kind][0]
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    return itertools.islice(make(base, rng), count)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="inputs in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), help="only these")
    parser.add_argument("--only", type=int, help="only the case of this number")
    parser.add_argument("--limit", type=float, default=60, help="seconds for each (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=4, help="GiB for each (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs of cases that went wrong")
    parser.add_argument("--base", type=Path, help="a folder to keep the sound inputs in, for another time")
    parser.add_argument("--to", type=Path, help="a file for all outcomes, as JSON lines")
    options = parser.parse_args(arguments)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="malformed-base-") as folder:
        base = made((options.base or Path(folder)).resolve())
        warm()
        outcomes = []
        with open(options.to or os.devnull, "w") as log:
            for number, case in _chosen(base, options):
                outcome = run_case(case, options.limit, options.memory, options.keep)
                outcomes.append(outcome)
                log.write(json.dumps(outcome.record()) + "\n")
                log.flush()
                if outcome.wrong or options.only is not None:
                    _show(number, outcome)
    _tell(outcomes)
    return NOT_OK if any(outcome.wrong for outcome in outcomes) else OK


def _chosen(base: Base, options: argparse.Namespace) -> Iterator[tuple[int, Case]]:
    kinds = [options.kind] if options.kind else list(KINDS)
    shares = {kind: options.count if options.kind else round(options.count * KINDS[kind][1]) for kind in kinds}
    for kind in kinds:
        for number, case in enumerate(cases_of(kind, base, shares[kind], options.seed)):
            if options.only in (None, number):
                yield number, case


def _show(number: int, outcome: Outcome) -> None:
    cost = f"{outcome.seconds} s, {outcome.peak_mib:.0f} MiB"
    print(f"{outcome.kind} {number}: {outcome.name!a}: exit {outcome.exit}, {cost} {outcome.wrong}")
    print("    " + outcome.stderr.strip().replace("\n", "\n    "), flush=True)


def _tell(outcomes: Sequence[Outcome]) -> None:
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.kind == kind]
        exits = ", ".join(f"exit {code}: {n}" for code, n in sorted(Counter(o.exit for o in mine).items()))
        wrong = sum(bool(outcome.wrong) for outcome in mine)
        slowest, largest = max(o.seconds for o in mine), max(o.peak_mib for o in mine)
        print(f"{kind}: {len(mine):,} inputs, {wrong} wrong; {exits}; slowest {slowest:.1f} s, peak {largest:,.0f} MiB")
    complaints = Counter(outcome.wrong for outcome in outcomes if outcome.wrong)
    print(
        f"{len(outcomes):,} inputs, {complaints.total()} wrong" + "".join(f"; {n} x {w}" for w, n in complaints.items())
    )


if __name__ == "__main__":
    sys.exit(main())
