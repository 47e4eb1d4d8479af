"""What it costs to run a share of a cluster's units again: one campaign on two Dask workers of this machine, per share.

    python tools/bench_recheck.py [SPEC] [--shares 0 0.02 0.1] [--repeats 1] [--json]

Sides take turns in one run of this program. Told are the rows that were run again, as a share of all, and the wall time of the
execution of faults against that of the first share; rows are compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

try:
    from distributed import LocalCluster
except ImportError:
    sys.exit("error: Dask is not installed: pip install 'testbed[cluster]'")

from bench_units import same

import testbed
from testbed.campaign.work.dask.checks import Checks


def measured(spec: Path, shares: list[float], repeats: int) -> dict[str, Any]:
    asked, again = testbed.load_spec(spec), dict[float, list[int]]()
    wall: dict[float, list[float]] = {share: [] for share in shares}
    closed, counts = Checks.close, list[int]()

    def counted(checks: Checks) -> None:
        counts.append(checks.rows)
        closed(checks)

    Checks.close = counted  # type: ignore[assignment, method-assign]
    options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with tempfile.TemporaryDirectory(prefix="bench-recheck-") as place, LocalCluster(**options) as cluster:
        folder, tables = Path(place) / "run", []
        for _ in range(repeats):
            for share in shares:
                redo = "execute" if folder.exists() else None
                testbed.run(asked, folder, redo=redo, scheduler=cluster.scheduler_address, recheck=share).close()
                facts = json.loads((folder / "manifest.json").read_text())["stages"]["execute"]["facts"]
                wall[share].append(float(facts["wall_seconds"]))
                again.setdefault(share, []).append(counts[-1])
                tables.append(pq.read_table(folder / "results.parquet"))
    first = statistics.median(wall[shares[0]])
    return {
        "spec": spec.name,
        "rows": tables[0].num_rows,
        "same_rows": all(same(table, tables[0]) for table in tables[1:]),
        "shares": [
            {
                "share": share,
                "rows_again": statistics.median(again[share]) / tables[0].num_rows,
                "wall_seconds": statistics.median(wall[share]),
                "wall_ratio": statistics.median(wall[share]) / first,
            }
            for share in shares
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", type=Path, default=Path("campaigns/digits.toml"))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.02, 0.1])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measured(arguments.spec, arguments.shares, arguments.repeats)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['spec']}: {found['rows']:,} rows, the same on all sides: {found['same_rows']}")
    for side in found["shares"]:
        told = f"{side['rows_again']:6.1%} of rows run again, {side['wall_seconds']:.1f} s"
        print(f"  --recheck {side['share']:<5g} {told}, {side['wall_ratio']:.2f} of the first")


if __name__ == "__main__":
    main()
