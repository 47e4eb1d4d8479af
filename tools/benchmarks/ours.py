"""Our side: a campaign's folder, its gates passed, and the very code that turns planned faults into result rows.

What a fault costs here, and is timed: finding its output by the campaign's evaluator, judging it (tolerance class and
top-1), and making its result row. Preparation (export, golden runs, gates, golden words of the struck elements) is done
once per campaign and told apart (``setup_cpu_seconds``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.faults import Layer, NeuronFaults, WeightFaults, neuron_places, weight_places
from benchmarks.subject import Subject
from benchmarks.verdict import Tolerance, of_names
from testbed import CampaignSpec
from testbed.campaign.evaluate.golden_words import golden_words
from testbed.campaign.execute.faults import FaultRunner
from testbed.campaign.execute.worker import fault_runner_for
from testbed.campaign.files import Files
from testbed.campaign.folder.claim import claimed
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import TargetPlace
from testbed.campaign.pipeline import Campaign
from testbed.campaign.plan.row import PlanRow, table_of
from testbed.campaign.plan.table import PlanSlice
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.prepare.torch_model import TorchSubject
from testbed.campaign.spec.campaign import parse_spec
from testbed.core.arrays import Words32
from testbed.core.site import Where
from testbed.golden.arrays import read_array
from testbed.testing import masks_for

ZERO_FAULT_ROWS = 64
LINEAR_WEIGHTS = [f"block.*.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


@dataclass(frozen=True)
class Prepared:
    """Faults of one target and place, with the golden words of what they strike: ready to be timed."""

    runner: FaultRunner
    plan_slice: PlanSlice
    words: Words32

    def __len__(self) -> int:
        return len(self.plan_slice)

    def rows(self) -> pa.Table:
        return self.runner.rows(self.plan_slice, self.words)

    def take(self, faults: NDArray[np.int64]) -> Prepared:
        """Some of the faults, which last one inference each."""
        plan_slice = PlanSlice(
            self.plan_slice.target, self.plan_slice.where, self.plan_slice.table.take(pa.array(faults))
        )
        return Prepared(self.runner, plan_slice, self.words[faults] if len(self.words) else self.words)


@dataclass
class Ours:
    """One engine of ours."""

    backend: str
    campaign: Campaign
    setup_cpu_seconds: float
    _injections: dict[TargetPlace, FaultRunner] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.campaign.workplace.batch

    def engine(self, target: str, where: Where) -> CampaignEngine:
        return self.campaign.workplace.engine(target, where)

    def inputs(self, target: str) -> NDArray[np.float32]:
        """(n, ...): what the target is fed for the named images."""
        return np.array(read_array(self.campaign.folder / Files(target).inputs))

    def neurons(self, target: str, faults: NeuronFaults, layers: Sequence[Layer]) -> Prepared:
        subject = self.campaign.preparation.subject
        assert isinstance(subject, TorchSubject)  # the benchmark's model has a preset
        sites, index = neuron_places(faults, layers, subject.config)
        images = [self.campaign.workplace.images.ids[row] for row in faults.image]
        return self._prepared(target, "activation", sites, index, faults.bit, images)

    def weights(self, faults: WeightFaults, layers: Sequence[Layer]) -> Prepared:
        sites, index = weight_places(faults, layers)
        return self._prepared("model", "weight", sites, index, faults.bit, [None] * len(faults))

    def _prepared(
        self,
        target: str,
        where: Where,
        sites: Sequence[str],
        index: NDArray,
        bits: NDArray,
        images: Sequence[str | None],
    ) -> Prepared:
        table = self.campaign.workplace.table(target)
        rows = []
        for number, (name, image) in enumerate(zip(sites, images, strict=True)):
            site, bit = table[name], int(bits[number])
            masks = masks_for("flip", site.format, bit)
            rows.append(PlanRow.single(target, site, "flip", bit, int(index[number]), masks, image, number))
        plan_slice = PlanSlice(target, where, table_of(rows))
        words = golden_words(self.campaign.workplace, plan_slice) if where == "activation" else np.zeros(0, np.uint32)
        return Prepared(self._inject(target, where), plan_slice, words)

    def _inject(self, target: str, where: Where) -> FaultRunner:
        key = (target, where)
        if key not in self._injections:
            self._injections[key] = fault_runner_for(self.campaign.workplace, target, where)
        return self._injections[key]

    def bare(self, target: str) -> Callable[[int], int]:
        """Runs the plain engine, as deployed, on so many batches of the campaign's size; returns the images."""
        workplace, engine = self.campaign.workplace, self.engine(target, "activation")
        runner = workplace.open(workplace.request(target, Files(target).plain))
        feeds = {engine.input_name: engine.inputs(np.arange(engine.batch) % len(engine.images))}

        def run(batches: int) -> int:
            for _ in range(batches):
                runner.run(feeds)
            return batches * engine.batch

        run(1)
        return run


@contextmanager
def opened(
    subject: Subject,
    backend: str,
    batch: int | str,
    tolerance: Tolerance,
    folder: Path,
    special: Mapping[str, Any] | None = None,
    evaluation: str = "fastest",
) -> Iterator[Ours]:
    """A campaign on the subject, prepared and past its gates. special: values of its spec, instead of the usual ones."""
    start = time.process_time()
    engine = {"backend": backend, "batch": batch, "threads": 1, "evaluation": evaluation}
    spec = campaign_spec(subject, engine, tolerance, special or {})
    run = claimed(folder, spec)
    preparation = Preparation(spec, run)
    with run.locked(), ExitStack() as stack:
        run.save()
        preparation.run()
        campaign = Campaign(preparation, stack)
        campaign.gate()
        yield Ours(backend, campaign, time.process_time() - start)


def campaign_spec(
    subject: Subject, engine: Mapping[str, Any], tolerance: Tolerance, special: Mapping[str, Any]
) -> CampaignSpec:
    values: dict[str, Any] = {
        "name": "bench",
        "model": {"run": str(subject.run.folder.path)},
        "tiers": {"edges": [1.0], "images": [subject.images]},
        "engine": engine,
        "gates": {"zero_fault_rows": ZERO_FAULT_ROWS, "parity_max_abs": 1e-3, "drift_max_abs": 1e-4},
        "tolerance": {"atol": tolerance.atol, "rtol": tolerance.rtol, "rtol_grid": []},
        "faults": [
            {"target": "model", "where": "activation", "ops": ["flip"]},
            {"target": "model", "where": "weight", "sites": LINEAR_WEIGHTS, "ops": ["flip"]},
            {"target": "attention", "where": "activation", "ops": ["flip"]},
        ],
    }
    return parse_spec(values | dict(special))


def verdicts(rows: pa.Table) -> NDArray[np.int8]:
    return of_names(rows.column("outcome").cast(pa.string()).to_pylist())


def hows(rows: pa.Table) -> NDArray[np.object_]:
    """(n,) how each output was found."""
    return np.array(rows.column("evaluation").cast(pa.string()).to_pylist(), object)
