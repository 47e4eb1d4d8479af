"""Compare the speed of this checkout's campaign with that of another checkout, and its rows with the other's, bit for bit.

    python tools/bench_revision.py REF                                       # the digits campaign, 5 runs of each
    python tools/bench_revision.py REF --repeats 2 --set tiers.images=[4,4,4,4]  # quick
    python tools/bench_revision.py REF/.venv/bin/python campaigns/fault-models.toml --json

REF is a checkout with a virtual environment of its own (.venv), or a Python that has the other testbed:

    git worktree add --detach ../ref REVISION
    python -m venv ../ref/.venv && ../ref/.venv/bin/pip install '../ref'

Both sides prepare the campaign once, with a model and goldens cache of their own. Then they take turns: each run repeats the
execution of the faults (`campaign run --redo execute`), in a process of its own. Printed are, of each side, the minimum and
the median of the injections per second and of wall_seconds / engine_seconds of the summary, and the ratio of this checkout
to the reference: a rate ratio of 1 / 1.02 or more, and a wall-over-engine ratio of 1.02 or less, are as fast as before.

Exit status: 0 measured, 1 the rows differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "campaigns" / "digits.toml"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
FOLLOW_THE_ENGINE = ("engine_hash", "deployment_id")
"""Columns that name files and versions, which another environment may change without any row's bits."""


@dataclass(frozen=True)
class Run:
    """What the summary of one run says."""

    injections_per_second: float
    wall_over_engine: float

    @classmethod
    def of_summary(cls, summary: dict[str, Any]) -> Run:
        return cls(summary["injections_per_second"], summary["wall_seconds"] / summary["engine_seconds"])


@dataclass(frozen=True)
class Side:
    """A testbed to measure: the interpreter that has it, and the folder its runs and caches lie in."""

    python: str
    folder: Path

    def run(self, spec: Path, changes: Sequence[str], again: bool) -> Run:
        """The campaign from the start, or its execution again. Raises RuntimeError with what the testbed said."""
        command = [self.python, "-m", "testbed", "campaign", "run", str(spec.resolve()), "--json", "--workers", "1"]
        command += ["--run", str(self.run_folder), *(["--redo", "execute"] if again else [])]
        command += [word for change in changes for word in ("--set", change)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= ONE_THREAD | {"TESTBED_CACHE": str(self.folder / "cache")}
        # `-m` takes the current folder's testbed before the installed one
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
        return Run.of_summary(json.loads(done.stdout))

    @property
    def run_folder(self) -> Path:
        return self.folder / "run"


def python_of(path: Path) -> str:
    """``path`` itself where it is a file, else the interpreter of the checkout's environment."""
    python = path if path.is_file() else path / ".venv" / "bin" / "python"
    if not python.is_file():
        sys.exit(f"error: {path} is no Python, and there is no {python}; make the checkout's environment first")
    return str(python.absolute())  # not resolved: a link is how an environment knows itself


def take_turns(sides: Sequence[Side], spec: Path, changes: Sequence[str], repeats: int) -> list[list[Run]]:
    """The runs of each side. Who begins changes each round, so that a slow moment of the machine is everybody's."""
    runs: list[list[Run]] = [[] for _ in sides]
    for repeat in range(repeats + 1):  # the first prepares, and is not counted
        for turn in range(len(sides)):
            number = (repeat + turn) % len(sides)
            run = sides[number].run(spec, changes, again=repeat > 0)
            runs[number] += [run] if repeat else []
    return runs


def differing_columns(reference: Path, here: Path) -> list[str]:
    """Columns of results.parquet that are not the same bits; "rows" where there are more or fewer of them."""
    tables = [pq.read_table(folder / "results.parquet") for folder in (reference, here)]
    if tables[0].num_rows != tables[1].num_rows:
        return ["rows"]
    names = dict.fromkeys(name for table in tables for name in table.column_names if name not in FOLLOW_THE_ENGINE)
    return [
        name
        for name in names
        if not all(name in table.column_names for table in tables)
        or _bits(tables[0][name].combine_chunks()) != _bits(tables[1][name].combine_chunks())
    ]


def _bits(array: Any) -> tuple[str, list[bool], bytes | list[Any]]:
    """Type, nulls and values; numbers as bytes, so that a NaN equals itself."""
    kind, nulls, values = str(array.type), array.is_null().to_pylist(), array.drop_null()
    if hasattr(values, "dictionary_decode"):
        return kind, nulls, values.dictionary_decode().to_pylist()
    if hasattr(values, "flatten") and hasattr(values, "value_lengths"):
        return (
            kind,
            nulls + values.value_lengths().to_pylist(),
            values.flatten().to_numpy(zero_copy_only=False).tobytes(),
        )
    return kind, nulls, values.to_numpy(zero_copy_only=False).tobytes()


def measure(reference: str, here: str, spec: Path, changes: Sequence[str], repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-revision-") as scratch:
        sides = [Side(reference, Path(scratch) / "reference"), Side(here, Path(scratch) / "here")]
        for side in sides:
            side.folder.mkdir()
        runs = take_turns(sides, spec, changes, repeats)
        changed = differing_columns(sides[0].run_folder, sides[1].run_folder)
    values = {
        field: {
            name: [asdict(run)[field] for run in of_side]
            for name, of_side in zip(("reference", "here"), runs, strict=True)
        }
        for field in ("injections_per_second", "wall_over_engine")
    }
    return {
        "spec": spec.name,
        "changes": [*changes],
        "measured": {field: of_field | compared(of_field) for field, of_field in values.items()},
        "differing_columns": changed,
    }


def compared(values: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """This checkout over the reference: of the medians, and the least and largest ratio of two runs of one round."""
    rounds = [here / reference for reference, here in zip(values["reference"], values["here"], strict=True)]
    median = statistics.median(values["here"]) / statistics.median(values["reference"])
    return {
        "ratio": {"of_medians": median, "min": min(rounds), "median": statistics.median(rounds), "max": max(rounds)}
    }


def print_table(found: dict[str, Any]) -> None:
    for field, measured in found["measured"].items():
        for name in ("reference", "here"):
            runs = measured[name]
            print(
                f"{field:22} {name:10} min {min(runs):,.3f}, median {statistics.median(runs):,.3f} of {len(runs)} runs"
            )
        ratio = measured["ratio"]
        print(
            f"{field:22} here / reference: {ratio['of_medians']:.3f} of the medians;"
            f" of runs side by side min {ratio['min']:.3f}, median {ratio['median']:.3f}, max {ratio['max']:.3f}"
        )
    print(
        "rows: "
        + (f"not the same in {', '.join(found['differing_columns'])}" if found["differing_columns"] else "the same")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", metavar="REF", type=Path, help="the other checkout, or its Python")
    parser.add_argument(
        "spec", metavar="SPEC", type=Path, nargs="?", default=SPEC, help="campaigns/digits.toml unless given"
    )
    parser.add_argument("--here", metavar="PYTHON", default=sys.executable, help="of the testbed to judge: this one's")
    parser.add_argument("--repeats", metavar="N", type=int, default=5, help="runs of each side: 5 unless given")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change a value of SPEC, on both sides"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats: 1 or more")
    found = measure(python_of(arguments.reference), arguments.here, arguments.spec, arguments.set, arguments.repeats)
    print(json.dumps(found, indent=1)) if arguments.json else print_table(found)
    sys.exit(1 if found["differing_columns"] else 0)


if __name__ == "__main__":
    main()
