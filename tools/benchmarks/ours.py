"""Our side: a campaign's folder, its gates passed, and the very code that turns planned faults into result rows.

What a fault costs here, and is timed: finding its output by the campaign's evaluator, judging it (tolerance class and
top-1), and making its result row. Preparation (export, golden runs, gates, golden words of the struck elements) is done
once per campaign and told apart (``setup_cpu_seconds``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.faults import Layer, NeuronFaults, WeightFaults, neuron_places, weight_places
from benchmarks.subject import Subject
from benchmarks.verdict import Tolerance, of_names
from testbed import CampaignSpec, load_spec
from testbed.testing import PreparedCampaign, PreparedFaults, open_campaign

GATES = {"zero_fault_rows": 64, "parity_max_abs": 1e-3, "drift_max_abs": 1e-4, "allow_chance_accuracy": True}
LINEAR_WEIGHTS = [f"block.*.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


@dataclass(frozen=True)
class Ours:
    """One engine of ours."""

    backend: str
    campaign: PreparedCampaign
    subject: Subject
    setup_cpu_seconds: float

    @property
    def batch(self) -> int:
        return self.campaign.batch

    def inputs(self, target: str) -> NDArray[np.float32]:
        """(n, ...): what the target is fed for the named images."""
        return self.campaign.inputs(target)

    def neurons(self, target: str, faults: NeuronFaults, layers: Sequence[Layer]) -> PreparedFaults:
        sites, index = neuron_places(faults, layers, self.subject.config)
        return self.campaign.flips(target, "activation", sites, index, faults.bit, faults.image)

    def weights(self, faults: WeightFaults, layers: Sequence[Layer]) -> PreparedFaults:
        sites, index = weight_places(faults, layers)
        return self.campaign.flips("model", "weight", sites, index, faults.bit)

    def bare(self, target: str, where: Literal["activation", "weight"] = "activation") -> Callable[[int], int]:
        """Runs the plain engine, as deployed or with weights that can be changed, on so many batches of the campaign's
        size; returns the images."""
        return self.campaign.bare_engine(target, where)


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
    with open_campaign(spec, folder) as campaign:
        yield Ours(backend, campaign, subject, time.process_time() - start)


def campaign_spec(
    subject: Subject, engine: Mapping[str, Any], tolerance: Tolerance, special: Mapping[str, Any]
) -> CampaignSpec:
    values: dict[str, Any] = {
        "name": "bench",
        "model": {"run": str(subject.run)},
        "tiers": {"edges": [1.0], "images": [subject.images]},
        "engine": engine,
        "gates": GATES,
        "tolerance": {"atol": tolerance.atol, "rtol": tolerance.rtol, "rtol_grid": []},
        "faults": [
            {"target": "model", "where": "activation", "ops": ["flip"]},
            {"target": "model", "where": "weight", "sites": LINEAR_WEIGHTS, "ops": ["flip"]},
            {"target": "attention", "where": "activation", "ops": ["flip"]},
        ],
    }
    return load_spec(values | dict(special))


def verdicts(rows: pa.Table) -> NDArray[np.int8]:
    return of_names(rows.column("outcome").cast(pa.string()).to_pylist())


def hows(rows: pa.Table) -> NDArray[np.object_]:
    """(n,) how each output was found."""
    return np.array(rows.column("evaluation").cast(pa.string()).to_pylist(), object)
