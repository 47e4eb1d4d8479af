"""What small units of work cost: the same campaign with ``engine.unit`` as asked for and with the one it measures by itself.

    python tools/bench_units.py [SPEC] [--unit 30] [--repeats 3] [--workers 1] [--json]

Each side is prepared once; then they take turns, in one run of this program. Told are wall time of the execution of faults,
worker processes, log and table included, and processor time of all processes from the plan to the summary, which other
programs of the machine disturb less. A third side hands units out one by one, as if they were not joined. Rows of all sides
are compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

import testbed
from testbed.campaign.work import spans

SIDES = ("measured", "asked", "one by one")


class Cost(NamedTuple):
    """Seconds: wall, of the execute stage; processor, of it and the summary."""

    wall: float
    processor: float


def processor_s() -> float:
    """Of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def execute(spec: Path, unit: int | None, folder: Path, workers: int, joined: bool, again: bool) -> Cost:
    """Everything before the stage is made where it is not there."""
    asked = testbed.load_spec(spec)
    asked = asked.model_copy(update={"engine": asked.engine.model_copy(update={"unit": unit})})
    before, spans.SPAN_S = spans.SPAN_S, spans.SPAN_S if joined else 0.0
    start = processor_s()
    try:
        testbed.run(asked, folder, redo="execute" if again else None, workers=workers).close()
    finally:
        spans.SPAN_S = before
    manifest = json.loads((folder / "manifest.json").read_text())
    return Cost(float(manifest["stages"]["execute"]["facts"]["wall_seconds"]), processor_s() - start)


def measured(spec: Path, unit: int, repeats: int, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-units-") as place:
        folders = {side: Path(place) / side for side in SIDES}
        costs: dict[str, list[Cost]] = {side: [] for side in SIDES}
        for repeat in range(repeats + 1):  # the first prepares, and is not counted
            for side, folder in folders.items():
                asked = None if side == "measured" else unit
                taken = execute(spec, asked, folder, workers, joined=side != "one by one", again=repeat > 0)
                costs[side] += [taken] * (repeat > 0)
        tables = [pq.read_table(folder / "results.parquet") for folder in folders.values()]
        manifests = [json.loads((folder / "manifest.json").read_text())["stages"] for folder in folders.values()]
    rows = tables[0].num_rows
    wall = {side: statistics.median(cost.wall for cost in found) for side, found in costs.items()}
    processor = {side: statistics.median(cost.processor for cost in found) for side, found in costs.items()}
    return {
        "spec": spec.name,
        "rows": rows,
        "unit_rows": {
            side: stages["tune"]["facts"]["unit_rows"] for side, stages in zip(SIDES, manifests, strict=True)
        },
        "rows_per_second": {side: rows / median for side, median in wall.items()},
        "wall_ratio": {side: wall["measured"] / wall[side] for side in SIDES[1:]},
        "processor_ratio": {side: processor["measured"] / processor[side] for side in SIDES[1:]},
        "same_rows": all(same(table, tables[0]) for table in tables[1:]),
        "seconds": {side: [cost._asdict() for cost in found] for side, found in costs.items()},
    }


def same(table: Any, other: Any) -> bool:
    """Bit for bit: NaN equal to NaN only in the same bits, as Arrow's files keep them."""
    columns = (
        (mine.combine_chunks(), theirs.combine_chunks())
        for mine, theirs in zip(table.columns, other.columns, strict=True)
    )
    return table.schema == other.schema and all(_bits(mine) == _bits(theirs) for mine, theirs in columns)


def _bits(array: Any) -> Any:
    if hasattr(array, "dictionary"):
        return array.dictionary_decode().to_pylist()
    if hasattr(array, "flatten") and str(array.type).startswith("list"):
        return array.is_null().to_pylist(), _bits(array.flatten())
    return array.is_null().to_pylist(), array.drop_null().to_numpy(zero_copy_only=False).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", type=Path, default=Path("campaigns/digits.toml"))
    parser.add_argument("--unit", type=int, default=30, help="rows, rounded to the batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measured(arguments.spec, arguments.unit, arguments.repeats, arguments.workers)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['spec']}: {found['rows']:,} rows, the same on all sides: {found['same_rows']}")
    for side in SIDES:
        rate = found["rows_per_second"][side]
        print(f"  {side:<10}  units of {found['unit_rows'][side]:>5,} rows  {rate:>9,.0f} injections/s")
    for what in ("wall", "processor"):
        ratio = found[f"{what}_ratio"]
        told = ", ".join(f"{ratio[side]:.2f} {side}" for side in SIDES[1:])
        print(f"of the measured unit's rate, by {what} time: {told}")


if __name__ == "__main__":
    main()
