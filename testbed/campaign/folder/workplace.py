"""A campaign's run folder as a place to work in: everything an engine needs, read from files, without the model.

Whoever runs faults (this process, a child, another machine that sees the same folder) starts from here.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from testbed.campaign.facts import TuneFacts
from testbed.campaign.files import TIERS, Files
from testbed.campaign.folder.claim import recorded_spec
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import NamedImages, named_images
from testbed.campaign.folder.judge import Judge
from testbed.campaign.gate_facts import GateFacts
from testbed.campaign.image_facts import ImageFacts
from testbed.campaign.plan.draw import most_points
from testbed.campaign.proofs import WHOLE, Proof
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.folder.files import sha256_bytes
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.site import SiteTable, Where
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.engines.weights import weights_beside
from testbed.golden.arrays import read_array
from testbed.instrument.packed import packed
from testbed.instrument.shapes import input_name, output_name

TargetPlace = tuple[str, Where]
"""(target, where): what one engine each is opened for."""


class Workplace:
    def __init__(self, folder: RunFolder, spec: CampaignSpec) -> None:
        self.folder, self.spec = folder, spec
        self._engines: dict[TargetPlace, CampaignEngine] = {}
        self._tables: dict[str, SiteTable] = {}

    @classmethod
    def at(cls, path: Path) -> Self:
        """Raises UsageError for a folder without a campaign, StaleArtefact where its spec was edited."""
        folder = RunFolder.existing(path)
        return cls(folder, recorded_spec(folder))

    @cached_property
    def images(self) -> NamedImages:
        return named_images(self.folder / TIERS)

    def table(self, target: str) -> SiteTable:
        if target not in self._tables:
            self._tables[target] = SiteTable.load(self.folder / Files(target).sites)
        return self._tables[target]

    @cached_property
    def judge(self) -> Judge:
        tolerance = self.spec.tolerance
        atol = np.array(tolerance.per_tier(len(self.spec.tiers.edges)))
        return Judge(atol, tolerance.rtol, tolerance.rtol_grid, self.spec.detector)

    @property
    def tuned(self) -> TuneFacts:
        """Frozen when the campaign began."""
        return facts_of(self.folder, "tune", TuneFacts)

    @property
    def batch(self) -> int:
        return self.tuned.batch

    @cached_property
    def drawn_spec(self) -> CampaignSpec:
        """The spec as faults are planned by it: with the numbers of images that the pilot found.

        Raises StaleArtefact before the pilot has run.
        """
        if not self.spec.auto_places:
            return self.spec
        facts = facts_of(self.folder, "images", ImageFacts)
        return self.spec.with_images({(chosen.target, chosen.where): chosen.images for chosen in facts.chosen})

    def images_each(self, target: str, where: Where) -> int:
        """Counts the named images that each persistent fault of a place is run on."""
        every = len(self.images)
        return min(every, self.drawn_spec.images_each(target, where) or every)

    def batch_of(self, target: str, where: Where) -> int:
        """Rows of a batch of the engine of a place: the campaign's, or, where weight faults are run on some of the images,
        so few that hardly any is filled with rows nobody reads."""
        each = self.images_each(target, where)
        return even_batch(each, self.batch) if where == "weight" and each < len(self.images) else self.batch

    def run_alone(self, why: str) -> None:
        """Sets the batch to one row from now on: nothing that was run before counts. why: for whoever reads the
        results."""
        self.close()
        self.folder.manifest["stages"]["tune"]["facts"] |= {"batch": 1, "why_batch": why}
        self.folder.save()

    def run_as_tuned(self, tuned: TuneFacts) -> None:
        """Sets the batch back to what it was, before `run_alone`."""
        self.close()
        self.folder.manifest["stages"]["tune"]["facts"] = tuned.to_json()
        self.folder.save()

    @property
    def gates(self) -> GateFacts | None:
        """What the gates found; None before they have passed."""
        return facts_of(self.folder, "gates", GateFacts) if "gates" in self.folder.manifest["stages"] else None

    def proof(self, target: str, where: Where) -> Proof:
        """Which evaluation the gates found for these faults; the whole engine before they have passed."""
        gates = self.gates
        return Proof(target, where, WHOLE) if gates is None else gates.proof(target, where)

    @property
    def left_out(self) -> dict[str, dict[str, str]]:
        """Per target, weights that the gates found cannot be struck rightly, and why; nothing before they have passed."""
        gates = self.gates
        return {} if gates is None else {target: gates.left_out(target) for target in gates.weights}

    @property
    def plannable(self) -> dict[str, SiteTable]:
        """Per target, the sites that faults may be planned for."""
        left_out = self.left_out
        return {target: self.table(target).without(left_out.get(target, ())) for target in self.spec.targets}

    def model(self, file: str) -> bytes:
        """A plain file or a twin of the folder as engines are made from it: with one output (see `packed`)."""
        return packed((self.folder / file).read_bytes())

    def request(self, target: str, file: str, mutable_weights: bool = False, batch: int | None = None) -> EngineRequest:
        """What an engine of a file of the folder is opened with. batch: the largest one, the place's own unless said."""
        tuned = self.tuned
        if batch is None:
            batch = self.batch_of(target, "weight") if mutable_weights else tuned.batch
        model = self.model(file)
        return EngineRequest.of_bytes(
            model,
            self.table(target).deployment_id,
            precision=self.spec.engine.precision,
            threads=tuned.threads,
            mutable_weights=mutable_weights,
            max_batch=batch,
            max_points=most_points(self.spec.faults, self.table(target)),
            weights=weights_beside(model, self.folder.path),
        )

    def open(self, request: EngineRequest) -> Runner:
        return open_engine(self.spec.engine.backend, request)

    def engine(self, target: str, where: Where) -> CampaignEngine:
        """Activation faults run in the twin, weight faults in the plain engine with weights that can be struck. Kept
        until ``close``."""
        target_place = (target, where)
        if target_place not in self._engines:
            self._engines[target_place] = self.opened(target, where, self.batch_of(target, where))
        return self._engines[target_place]

    def opened(self, target: str, where: Where, batch: int) -> CampaignEngine:
        """An engine of a place in batches of one's own, which the caller closes."""
        files, twin = Files(target), where == "activation"
        request = self.request(target, files.twin if twin else files.plain, mutable_weights=not twin, batch=batch)
        inputs = read_array(self.folder / files.inputs)
        return CampaignEngine(
            target=target,
            where=where,
            table=self.table(target),
            runner=self.open(request),
            inputs=lambda rows: inputs[rows],
            input_name=input_name(request.onnx),
            output_name=output_name(request.onnx),
            images=self.images,
            batch=batch,
        )

    def golden_hashes(self) -> dict[str, str]:
        """Content of each engine's golden: another instruction set gives other bits, and must not be mixed in."""
        return {
            f"{target}.{where}": golden_hash(self.engine(target, where)) for target, where in self.spec.target_places
        }

    @property
    def engine_seconds(self) -> float:
        return sum(engine.engine_seconds for engine in self._engines.values())

    def close(self) -> None:
        for engine in self._engines.values():
            engine.runner.close()
        self._engines.clear()


def even_batch(rows: int, most: int) -> int:
    """The smallest batch that needs no more runs for so many rows than one of ``most`` does."""
    return math.ceil(rows / math.ceil(rows / most))


def golden_hash(engine: CampaignEngine) -> str:
    """Hash of the bits of an engine's golden outputs."""
    return sha256_bytes(engine.golden.tobytes())[:16]
