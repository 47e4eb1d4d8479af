"""Noise floors: how far fault-free engines are from the reference golden, measured once per engine and kept.

A deployed detector compares an output with a stored golden. What it sees without any fault is the other engine, the other
precision, the other batch size; a tolerance below that raises false alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.analysis.outputs.compare import Deviation
from testbed.analysis.outputs.confidence import top1
from testbed.campaign.facts import NoiseEngine, NoiseFacts
from testbed.campaign.files import Files
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.prepare.module_golden import TARGET, Reference, write_attention
from testbed.campaign.prepare.precisions import plain_in
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.results.reader import form_of, list_values
from testbed.core.errors import StaleArtefact
from testbed.core.folder.files import atomic_path, scratch_folder
from testbed.core.folder.forms import Form
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.site import Target
from testbed.data import Split
from testbed.engines.batches import batches
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.engines.weights import request_from, weights_beside
from testbed.golden.arrays import read_array
from testbed.golden.reference import LOGITS
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.shapes import input_name, output_name
from testbed.instrument.table import deployment_id
from testbed.sweep.floor import Floor
from testbed.sweep.noise_sources import TWIN, Source

COMMAND = "testbed sweep"
_STAGE = "noise"
_TABLE = form_of(
    "a noise floor",
    f"run `{COMMAND} DIR` again",
    pa.schema([("image_id", pa.string()), ("tier", pa.int16()), ("smallest_atol", pa.list_(pa.float64()))]),
    ("image_id", "tier", "smallest_atol"),
)


class ProgressOpener(Protocol):
    def __call__(self, total: int, what: str = ...) -> AbstractContextManager[Callable[[int], None]]: ...


class NoiseInputs(Form):
    """What a floor is made from: hashes of files by their names, and what was asked for."""

    instrumented: dict[str, str]
    plain: dict[str, str]
    golden: str
    tiers: dict[str, str]
    rtol_grid: list[float]
    threads: int
    per_tier: int


InputsOf = Callable[[NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True)
class NoiseImages:
    """Images that noise is measured on. ids, tier, position in the test split: (n,) each. ``inputs``: engine inputs of
    these rows; ``golden``: their reference golden."""

    ids: Sequence[str]
    tier: NDArray[np.int64]
    position: NDArray[np.int64]
    inputs: InputsOf
    golden: InputsOf


class NoiseEngines:
    """Measures noise floors of a campaign's targets, each as a stage of its run folder."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace

    @property
    def folder(self) -> RunFolder:
        return self.workplace.folder

    def measured(self, sources: Sequence[Source], per_tier: int | None, progress: ProgressOpener) -> list[Floor]:
        """Floors of these engines for every target; those that were measured before are only read.

        per_tier: images of each tier, at least the campaign's own; None: as many as were measured before, or the
        campaign's own. Raises EngineError for an engine that cannot run here, TestbedError for a model that cannot be
        had in the wanted precision.
        """
        return [
            self._measured(source, target, per_tier, progress)
            for source in sources
            for target in self.workplace.spec.targets
        ]

    def _measured(self, source: Source, target: Target, per_tier: int | None, progress: ProgressOpener) -> Floor:
        stage, file = _names(source, target)
        recorded = self.folder.manifest["stages"].get(stage)
        if per_tier is None:
            per_tier = _per_tier(recorded) if recorded else 0
        self.folder.stage(
            stage,
            self._made_from(target, per_tier).to_json(),
            [file],
            lambda: self._measure(source, target, self.images(target, per_tier), progress),
            command=COMMAND,
        )
        return self._read(stage)

    def kept(self) -> list[Floor]:
        """Those measured before, whose inputs are still the same and whose files are whole."""
        floors = []
        for stage, record in self.folder.manifest["stages"].items():
            if stage.startswith(f"{_STAGE}."):
                with suppress(StaleArtefact):
                    facts = facts_of(self.folder, stage, NoiseFacts)
                    if record["inputs"] == self._made_from(facts.target, _per_tier(record)).to_json():
                        floors.append(self._read(stage))
        return floors

    def _made_from(self, target: Target, per_tier: int) -> NoiseInputs:
        stages = self.folder.manifest["stages"]
        return NoiseInputs(
            instrumented=stages[f"instrument.{target}"]["outputs"],
            plain=stages[f"export.{target}"]["outputs"],
            golden=stages[(reference := Reference.of(self.folder, target)).stage]["outputs"][reference.file],
            tiers=stages["tiers"]["outputs"],
            rtol_grid=list(self.workplace.spec.tolerance.rtol_grid),
            threads=self.workplace.tuned.threads,
            per_tier=per_tier,
        )

    def _read(self, stage: str) -> Floor:
        self.folder.verify(stage)
        facts = facts_of(self.folder, stage, NoiseFacts)
        source = _source(facts)
        path = self.folder / _names(source, facts.target)[1]
        table = _TABLE.read(path)
        lists, width = table.column("smallest_atol"), len(self.workplace.spec.tolerance.rtol_grid)
        atol = [list_values(lists, column, width, path, _TABLE) for column in range(width)]
        return Floor(
            source,
            facts.target,
            facts.engine_hash,
            facts.arithmetic,
            table.column("tier").to_numpy().astype(np.int64),
            np.stack(atol, axis=1),
            facts.other_top1,
        )

    # ---- measuring

    @cached_property
    def _preparation(self) -> Preparation:
        """Opens the data set: only for images beyond the campaign's own."""
        return Preparation.finished(self.workplace.spec, self.folder)

    def images(self, target: Target, per_tier: int) -> NoiseImages:
        """Choose ``per_tier`` images of each tier: the campaign's own, and more in the order in which they are chosen."""
        named = self.workplace.images
        own = np.bincount(named.tiers, minlength=len(self.workplace.spec.tiers.edges))
        reference = Reference.of(self.folder, target)
        self.folder.verify(reference.stage, [reference.file])
        if per_tier <= own[own > 0].min():
            inputs, outputs = read_array(self.folder / Files(target).inputs), reference.rows(self.folder, named)
            tiers = named.tiers.astype(np.int64)
            return NoiseImages(named.ids, tiers, named.positions, lambda rows: inputs[rows], lambda rows: outputs[rows])
        preparation = self._preparation
        sizes = np.where(own > 0, np.maximum(own, per_tier), 0)
        chosen = [
            _extended(named.positions[named.tiers == tier], preparation.tier_order(tier), size)
            for tier, size in enumerate(sizes)
        ]
        position, test = np.concatenate(chosen), preparation.dataset.test
        tier = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen])
        ids = [test.ids[p] for p in position]
        if target == TARGET:
            return NoiseImages(ids, tier, position, *self._attention(test, position))
        logits = read_array(self.folder / LOGITS)
        return NoiseImages(
            ids, tier, position, lambda rows: test.batch(position[rows]), lambda rows: logits[position[rows]]
        )

    def _attention(self, test: Split, position: NDArray[np.int64]) -> tuple[InputsOf, InputsOf]:
        """Inputs and outputs of the module for these test images, in files that are gone with this object."""
        folder = scratch_folder(self)
        files = folder / "inputs.npy", folder / "outputs.npy"
        write_attention(self.workplace.spec, self.folder, test, position, files)
        inputs, outputs = map(read_array, files)
        return (lambda rows: inputs[rows]), (lambda rows: outputs[rows])

    def _measure(self, source: Source, target: Target, images: NoiseImages, progress: ProgressOpener) -> NoiseFacts:
        grid = self.workplace.spec.tolerance.rtol_grid
        atol, differing = np.empty((len(images.ids), len(grid))), []
        request = self._request(source, target)
        with open_engine(source.backend, request) as runner, progress(len(images.ids), f"{source}: images") as advance:
            for rows, outputs in self._outputs(runner, request, source, target, images):
                reference = images.golden(rows)
                deviation = Deviation(outputs, reference)
                atol[rows] = np.stack([deviation.smallest_atol(rtol) for rtol in grid], axis=1)
                if target == "model":
                    differing.append(int((top1(outputs) != top1(reference)).sum()))
                advance(len(rows))
            info = runner.info
        table = pa.table(
            {
                "image_id": list(images.ids),
                "tier": images.tier.astype(np.int16),
                "smallest_atol": pa.FixedSizeListArray.from_arrays(atol.reshape(-1), len(grid)).cast(
                    pa.list_(pa.float64())
                ),
            }
        )
        with atomic_path(self.folder / _names(source, target)[1]) as temporary:
            pq.write_table(table, temporary)
        return NoiseFacts(
            source=NoiseEngine(
                backend=source.backend, precision=source.precision, batch=source.batch, file=source.file
            ),
            target=target,
            engine_hash=info.hash,
            arithmetic=str(info.options.get("arithmetic", source.precision)),
            images=len(images.ids),
            other_top1=sum(differing) if target == "model" else None,
        )

    def _request(self, source: Source, target: Target) -> EngineRequest:
        options: dict[str, Any] = {
            "precision": source.precision,
            "threads": self.workplace.tuned.threads,
            "max_batch": source.batch,
        }
        if source.file == TWIN:
            return request_from(self.folder / Files(target).twin, self.workplace.table(target).deployment_id, **options)
        plain = plain_in(self.workplace, target, source.precision)
        return EngineRequest.of_bytes(
            plain, deployment_id(plain), weights=weights_beside(plain, self.folder.path), **options
        )

    def _outputs(
        self, runner: Runner, request: EngineRequest, source: Source, target: Target, images: NoiseImages
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(rows, outputs) batch by batch; the last one padded."""
        given, wanted = input_name(request.onnx), output_name(request.onnx)
        ports = PortFeed.idle(source.batch).as_inputs(self.workplace.table(target)) if source.file == TWIN else {}
        for batch in batches(len(images.ids), source.batch):
            outputs = runner.run({given: images.inputs(batch.padded), **ports})[wanted]
            yield batch.rows, outputs[: len(batch.rows)]


def _source(facts: NoiseFacts) -> Source:
    return Source(facts.source.backend, facts.source.precision, facts.source.batch, facts.source.file)


def _per_tier(record: Mapping[str, Any]) -> int:
    """0 where that is not recorded as it should be: the inputs are then others, and the floor is measured anew."""
    per_tier = record["inputs"].get("per_tier") if isinstance(record["inputs"], dict) else None
    return per_tier if type(per_tier) is int and per_tier >= 0 else 0


def _extended(own: NDArray[np.int64], order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Ascending: the campaign's own images of a tier, and more of it up to ``size``, in the order in which they are chosen."""
    more = order[~np.isin(order, own)][: max(0, size - len(own))]
    return np.sort(np.concatenate([own, more]))


def _names(source: Source, target: Target) -> tuple[str, str]:
    """Stage and file of one floor."""
    return f"{_STAGE}.{target}.{source.key}", f"{_STAGE}/{target}.{source.key}.parquet"
