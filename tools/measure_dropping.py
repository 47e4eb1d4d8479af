"""By which block a fault in an activation has died out: every bit behind it is golden again, and the rest need not be run.

    python tools/measure_dropping.py [--run DIR] [--precision fp32,fp16,int8] [--per-stratum 2] [--images 32] [--json]

DIR has a trained model; without it a small one of the digits is trained first. A campaign of bit flips is run in each
precision, and its faults once more in the twin with the end of each stage (embedding, block, head) beside its output.

own, +1, later   share of the rows in which the end of the fault's own stage, of the next, of a later one is the first that
                 is golden
today            share of the rows that the campaign stopped at that, or need not run (`evaluation` unchanged, dead)
saved            share of the engine's work on all rows that stopping at every stage end would save at most: stages count
                 alike, comparing and cutting suffixes at their ends nothing
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any library counts the cores

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if find_spec("testbed") is None:  # not installed: the checkout's
    sys.path.append(str(ROOT))

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import pandas as pd  # noqa: E402

import testbed  # noqa: E402
from testbed.campaign.evaluate.contract import Injections, same_words  # noqa: E402
from testbed.campaign.evaluate.golden_words import read_words  # noqa: E402
from testbed.campaign.evaluate.injections import injections_of, with_golden_words  # noqa: E402
from testbed.campaign.files import PLAN, Files, words_file  # noqa: E402
from testbed.campaign.plan.units import plan_slice_of, units_of  # noqa: E402
from testbed.campaign.run import Run  # noqa: E402
from testbed.engines.batches import pad_rows  # noqa: E402
from testbed.instrument.cut.flow import Flow  # noqa: E402
from testbed.instrument.cut.stages import Stages  # noqa: E402
from testbed.instrument.ports.feed import PortFeed  # noqa: E402
from testbed.instrument.ports.prefix import with_output  # noqa: E402

ALL = "all"
_STOPPED = ("unchanged", "dead")
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Shares:
    """Of the rows of one kind of site: see the module's first lines. own, next, later: of all rows; identical: whose output
    is golden."""

    kind: str
    rows: int
    identical: float
    own: float
    next: float
    later: float
    today: float
    saved: float


@dataclass(frozen=True)
class Measured:
    """One precision. disagree: rows that are identical in the campaign and not here, or the other way round."""

    precision: str
    stages: int
    evaluation: dict[str, float]
    disagree: int
    kinds: list[Shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="DIR", help="run folder of a model (default: digits, trained here)")
    parser.add_argument("--precision", default="fp32,fp16,int8")
    parser.add_argument("--backend", default="ort-cpu")
    parser.add_argument("--per-stratum", type=int, default=2, help="flips of each site and bit")
    parser.add_argument("--images", type=int, default=32, help="of the test split")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.run or Path(scratch) / "digits"
        if arguments.run is None:
            testbed.train_model("digits", "digits", model)
        for precision in arguments.precision.split(","):
            folder = Path(scratch) / precision
            testbed.run(spec(model, precision, arguments), folder)
            with testbed.open_run(folder) as run:
                records.append(measured(run, precision))
            if not arguments.json:
                print(table(records[-1]), flush=True)
    if arguments.json:
        print(json.dumps([asdict(record) for record in records], indent=1))


def spec(model: Path, precision: str, arguments: argparse.Namespace) -> testbed.CampaignSpec:
    """Flips of single bits in every activation."""
    parity = {"fp32": None, "fp16": 0.2, "int8": 20.0}[precision]
    return testbed.load_spec(
        {
            "name": f"dropping-{precision}",
            "seed": 5,
            "model": {"run": str(model.resolve())},
            "tiers": {"edges": [1.0], "images": [arguments.images]},
            "engine": {"backend": arguments.backend, "precision": precision, "batch": 32},
            "gates": {"test_accuracy": 0.3, "zero_fault_rows": 256}
            | ({} if parity is None else {"parity_max_abs": parity}),
            "tolerance": {"atol": 1e-4, "rtol": 1e-4},
            "faults": [
                {"target": "model", "where": "activation", "ops": ["flip"], "per_stratum": arguments.per_stratum}
            ],
        }
    )


def measured(run: Run, precision: str) -> Measured:
    rows = followed(run)
    kinds = [_shares(ALL, rows), *(_shares(str(kind), part) for kind, part in rows.groupby("kind", observed=True))]
    evaluation = rows.evaluation.value_counts(normalize=True)
    return Measured(
        precision,
        int(rows.stages.iloc[0]),
        {str(how): float(share) for how, share in evaluation.items() if share > 0},
        int(((rows.outcome == "identical") != rows.golden_output).sum()),
        kinds,
    )


def followed(run: Run) -> pd.DataFrame:
    """The campaign's rows of single inferences with a fault in the model's activations: the stage of each fault, the first
    whose end is golden behind it (``stages``, if none is), and whether the output is golden."""
    engine = run.workplace.engine("model", "activation")
    plain = onnx.load_from_string(run.workplace.model(Files("model").plain))
    stages = Stages.of(Flow.of(plain), engine.table)
    ends = [stage.end for stage in stages.stages[:-1]]
    words = read_words(run.path / words_file(PLAN))
    by_tensor = {site.tensor: site for site in engine.table if site.where == "activation"}
    request = run.workplace.request("model", Files("model").twin)
    twin = request.onnx
    for end in ends:
        twin = with_output(twin, by_tensor[end])
    own = {site: stage.number for site, stage in stages.by_site.items()}
    parts = []
    with run.workplace.open(replace(request, onnx=twin, file_sha256="tapped")) as runner:

        def outputs(images: np.ndarray, ports: PortFeed) -> dict[str, np.ndarray]:
            feeds = {engine.input_name: engine.inputs(pad_rows(images, engine.batch))}
            results = runner.run(feeds | ports.padded(engine.batch).as_inputs(engine.table))
            return {name: results[name][: len(images)] for name in (*ends, engine.output_name)}

        golden = _golden(outputs, len(engine.images), engine.batch)
        for unit in units_of(run.path / PLAN, PLAN, len(engine.images), _ROWS_AT_ONCE, 0):
            plan_slice = plan_slice_of(run.path / PLAN, unit.start, unit.stop)
            if (plan_slice.target, plan_slice.where) != ("model", "activation") or plan_slice.lasting.any():
                continue
            _, unknown = injections_of(plan_slice, engine.table, engine.images)
            injections = with_golden_words(unknown, words[unit.word : unit.word + unit.words])
            stage = np.array([own[str(site)] for site in plan_slice.column("site")])
            died, same = _followed(outputs, golden, injections, stage, ends, engine.batch)
            parts.append(
                pd.DataFrame(
                    {"fault_id": plan_slice.column("fault_id"), "stage": stage, "died": died, "golden_output": same}
                )
            )
    rows = run.results[["fault_id", "kind", "outcome", "evaluation"]].merge(pd.concat(parts), on="fault_id")
    return rows.assign(stages=len(stages.stages))


def _golden(outputs: Any, images: int, batch: int) -> dict[str, np.ndarray]:
    parts = []
    for start in range(0, images, batch):
        rows = np.arange(start, min(start + batch, images))
        parts.append(outputs(rows, PortFeed.idle(len(rows))))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _followed(
    outputs: Any, golden: dict[str, np.ndarray], injections: Injections, stage: np.ndarray, ends: list[str], batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the first stage whose end is golden behind the fault, and whether the output is."""
    died, same = np.full(len(injections), len(ends) + 1), np.zeros(len(injections), bool)
    for start in range(0, len(injections), batch):
        part = np.arange(start, min(start + batch, len(injections)))
        of_part = injections.take(part)
        results = outputs(of_part.image, of_part.ports)
        (output,) = set(results) - set(ends)
        same[part] = same_words(results[output], golden[output][of_part.image])
        for number in reversed(range(len(ends))):
            equal = same_words(results[ends[number]], golden[ends[number]][of_part.image]) & (stage[part] <= number)
            died[part[equal]] = number
    return died, same


def _shares(kind: str, rows: pd.DataFrame) -> Shares:
    stages, stopped = int(rows.stages.iloc[0]), rows.evaluation.isin(_STOPPED)
    died = rows.died < stages
    left = np.where(rows.evaluation == "whole", stages, stages - rows.stage)
    work = np.where(rows.evaluation == "dead", 0, np.where(stopped, 1, left))
    spared = np.where(died & ~stopped, np.maximum(stages - 1 - rows.died, 0), 0)
    distance = (rows.died - rows.stage)[died]
    return Shares(
        kind,
        len(rows),
        float(rows.golden_output.mean()),
        float((distance == 0).sum() / len(rows)),
        float((distance == 1).sum() / len(rows)),
        float((distance > 1).sum() / len(rows)),
        float(stopped.mean()),
        float(spared.sum() / work.sum()) if work.sum() else 0.0,
    )


def table(record: Measured) -> str:
    how = ", ".join(f"{name} {100 * share:.1f} %" for name, share in record.evaluation.items())
    lines = [f"{record.precision}, {record.stages} stages; today: {how}; {record.disagree} rows disagree", _HEAD]
    for each in record.kinds:
        shares = (each.identical, each.own, each.next, each.later, each.today, each.saved)
        lines.append(f"{each.kind:<22}{each.rows:>8,}" + "".join(f"{100 * share:>10.1f}" for share in shares))
    return "\n".join(lines)


_HEAD = f"{'in %':<22}{'rows':>8}" + "".join(
    f"{name:>10}" for name in ("identical", "own", "+1", "later", "today", "saved")
)


if __name__ == "__main__":
    main()
