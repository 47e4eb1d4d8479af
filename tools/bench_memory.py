"""How much memory a campaign's bookkeeping takes, by number of faults: planning, storing and compacting, summarising.

    python tools/bench_memory.py [--faults 100000 1000000] [--json]

The plan, the log, the compaction and the summary are the campaign's own; only the outputs are made up (golden logits with
noise, judged as always), of a table of sites like a small Vision Transformer's. There are as many strata whatever the
number of faults: more are drawn from each. Each phase is a process of its own; told are its peak resident memory, and
what of it is more than the process needs to start with.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from testbed import CampaignSpec
from testbed.analysis.outputs.outcome import GoldenSide, classify
from testbed.campaign.execute.rows import Injected, RowFacts, result_rows
from testbed.campaign.files import PLAN, RESULTS, STORE
from testbed.campaign.folder.images import NamedImages
from testbed.campaign.plan.table import planned, write_plan
from testbed.campaign.plan.units import plan_slice_of, units_of
from testbed.campaign.results.compaction import Compaction
from testbed.campaign.results.reader import ROW_SCHEMA
from testbed.campaign.results.store import ResultStore
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.summary.rates import RATE_DIMENSIONS, fault_models
from testbed.campaign.summary.tally import Tally, populations
from testbed.core.outcome import How
from testbed.core.site import Site, SiteTable
from testbed.testing import EngineInfo

PHASES = ("plan", "store", "summary")
BLOCKS, TOKENS, WIDTH, CLASSES, IMAGES_PER_TIER, TIERS = 4, 65, 48, 10, 4, 4
GRID = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
ROWS_PER_UNIT = 1024


def site_table() -> SiteTable:
    sites = []
    for block in range(BLOCKS):
        for name in ("norm1", "attn.context", "attn.proj", "norm2", "mlp.fc2", "residual"):
            sites.append(Site(f"block.{block}.{name}", "activation", (TOKENS, WIDTH)))
        for name in ("attn.proj.weight", "mlp.fc2.weight"):
            sites.append(Site(f"block.{block}.{name}", "weight", (WIDTH, WIDTH)))
    return SiteTable("model", "made-up", "gated_replace", tuple(sites))


def spec_of(faults: int) -> CampaignSpec:
    """Nearly all are of single activations; one in thirty-two is of a weight, which every image sees."""
    activations = max(1, faults // (BLOCKS * 6 * 32 * TIERS))
    weights = max(1, faults // 32 // (BLOCKS * 2 * 32))
    return parse_spec(
        {
            "name": "memory",
            "model": {"preset": "digits", "recipe": "digits"},
            "data": {"name": "digits"},
            "tiers": {"images": [IMAGES_PER_TIER] * TIERS},
            "faults": [
                {"target": "model", "where": "activation", "ops": ["flip"], "per_stratum": activations},
                {"target": "model", "where": "weight", "ops": ["flip"], "per_stratum": weights},
            ],
        }
    )


def named_images() -> NamedImages:
    n = IMAGES_PER_TIER * TIERS
    tiers = np.repeat(np.arange(TIERS), IMAGES_PER_TIER).astype(np.int16)
    return NamedImages(tuple(f"image-{i}" for i in range(n)), np.zeros(n, np.int64), tiers, np.arange(n))


def plan(folder: Path, faults: int) -> dict[str, Any]:
    images = named_images()
    parts = planned(spec_of(faults), {"model": site_table()}, images.per_tier(TIERS))
    return {"faults": write_plan(folder / PLAN, parts)}


def store(folder: Path) -> dict[str, Any]:
    """Every unit's rows into the log, one after the other, and the log into one table."""
    images, rng = named_images(), np.random.default_rng(0)
    golden = GoldenSide.of(rng.normal(size=(len(images), CLASSES)).astype(np.float32), True)
    engine = EngineInfo("made-up", "fp32", "0" * 64, "0" * 16)
    units = list(units_of(folder / PLAN, PLAN, len(images), ROWS_PER_UNIT, 0))
    with (
        ResultStore(folder / STORE, "made-up") as log,
        Compaction(log, folder / RESULTS, ROW_SCHEMA) as compaction,
    ):
        for unit in units:
            plan_slice = plan_slice_of(folder / PLAN, unit.start, unit.stop)
            fault, image = images.of_faults(plan_slice.table)
            noise = rng.normal(size=(len(image), CLASSES)) * 10.0 ** rng.integers(-6, 1, (len(image), 1))
            outputs = (golden.values[image] + noise).astype(np.float32)
            words = rng.integers(0, 2**32, len(image), dtype=np.uint32)
            known = RowFacts(fault, image, words, words ^ np.uint32(1))
            how, bound = np.full(len(image), How.WHOLE, np.int8), np.zeros(len(image), np.float32)
            outcomes = classify(outputs, golden.take(image), 1e-4, 1e-4, GRID)
            log.append(
                unit.number,
                result_rows(plan_slice.table, Injected(known, outputs, how, bound), outcomes, images, engine),
            )
            compaction.advance()
        rows = compaction.finish(len(units))
    return {"rows": rows, "bytes": (folder / RESULTS).stat().st_size}


def summary(folder: Path) -> dict[str, Any]:
    tally = Tally.of(folder / RESULTS)
    faults, population = populations([folder / PLAN])
    told = 0
    for rates in fault_models(tally, population, 0.95):
        told += (
            len(rates.cells()) + len(rates.outcomes_by_cell()) + sum(len(rates.by(name)) for name in RATE_DIMENSIONS)
        )
    return {"faults": faults, "rows": tally.rows, "rates": told}


def megabytes() -> float:
    """Most memory this process had, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def phase(name: str, folder: Path, faults: int) -> dict[str, Any]:
    before, start = megabytes(), time.perf_counter()
    run = {"plan": lambda: plan(folder, faults), "store": lambda: store(folder), "summary": lambda: summary(folder)}
    found = run[name]()
    seconds, peak = time.perf_counter() - start, megabytes()
    return {**found, "seconds": round(seconds, 2), "peak_mb": round(peak, 1), "more_mb": round(peak - before, 1)}


def measured(faults: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {"wanted": faults}
        for name in PHASES:
            print(f"{faults} faults: {name}", file=sys.stderr)
            command = [sys.executable, __file__, "--phase", name, "--folder", folder, "--faults", str(faults)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name] = json.loads(done.stdout)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--faults", type=int, nargs="+", default=[100_000, 1_000_000], help="planned faults; half as many rows again"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(phase(arguments.phase, arguments.folder, arguments.faults[0])))
        return
    runs = [measured(faults) for faults in arguments.faults]
    ratio = {name: round(runs[-1][name]["peak_mb"] / runs[0][name]["peak_mb"], 3) for name in PHASES}
    if arguments.json:
        print(json.dumps({"runs": runs, "peak_ratio": ratio}, indent=1))
        return
    for run in runs:
        print(f"{run['plan']['faults']:,} faults, {run['store']['rows']:,} rows")
        for name in PHASES:
            told = run[name]
            print(f"  {name:8} peak {told['peak_mb']:7.1f} MB (+{told['more_mb']:.1f} MB), {told['seconds']:.1f} s")
    print("peak, last to first: " + ", ".join(f"{name} {value:.2f}" for name, value in ratio.items()))


if __name__ == "__main__":
    main()
