"""The stages that make instrumented engines' files from a spec: data, model, golden, tiers, plain ONNX, twins, site
tables."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.choice import choose_per_tier, tier_order, too_small
from testbed.analysis.outputs.classes import class_counts, one_class_warning
from testbed.analysis.outputs.confidence import TierEdges, Tiers, tiers_from_logits, top1
from testbed.analysis.outputs.guessing import Accuracy, accuracy_against_guessing
from testbed.campaign.described import AccuracyFacts, DescribedData, PictureFacts
from testbed.campaign.facts import GoldenFacts, TuneFacts
from testbed.campaign.files import PICTURES, TIERS, Files
from testbed.campaign.folder.images import NamedImages, TiersFile, named_images
from testbed.campaign.folder.pictures import write_pictures
from testbed.campaign.plan.draw import most_points
from testbed.campaign.prepare.module_golden import TARGET, Reference, write_attention
from testbed.campaign.prepare.recorded import STAGE, preparation_stages, verify_prepared
from testbed.campaign.prepare.subject import Subject
from testbed.campaign.prepare.subjects import finished_subject, missing_source, subject_of
from testbed.campaign.prepare.tune import Tuning, tune_twin
from testbed.campaign.results.progress import Watch, unwatched
from testbed.campaign.reuse.reuse import NO_REUSE, Reuse
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import GateFailed
from testbed.core.folder.files import write_bytes, write_json
from testbed.core.folder.places import data_name, portable, write_sources
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.process.resources import release_memory
from testbed.core.site import SiteTable
from testbed.data import Dataset
from testbed.golden.arrays import array_writer, read_array
from testbed.golden.reference import LOGITS
from testbed.instrument.ports.insertion import instrument

log = logging.getLogger(__name__)

_INPUT_ROWS = 64  # read and written at once


class Preparation:
    """The stages before the first fault. Each is made once and reused while its inputs stay the same."""

    def __init__(
        self,
        spec: CampaignSpec,
        folder: RunFolder,
        subject: Subject | None = None,
        watch: Watch = unwatched,
        reuse: Reuse = NO_REUSE,
    ) -> None:
        self.spec, self.folder, self.watch, self.reuse = spec, folder, watch, reuse
        self._tables: dict[str, SiteTable] = {}
        self.subject = subject or subject_of(spec, folder)
        self.subject.check_sites()

    @classmethod
    def finished(cls, spec: CampaignSpec, folder: RunFolder) -> Self:
        """The preparation of a prepared campaign, to be read; its data set is opened only if it is asked for.

        Raises StaleArtefact for files that were changed.
        """
        verify_prepared(folder, spec)
        return cls(spec, folder, finished_subject(spec, folder))

    @property
    def stages(self) -> list[str]:
        return preparation_stages(self.spec)

    @property
    def dataset(self) -> Dataset:
        return self.subject.dataset

    def run(self) -> None:
        """All stages up to the tuned engine. Raises GateFailed when the model is not as good as the spec asks."""
        if missing_source(self.spec) is None:
            write_sources(self.folder.path, self._sources())
        self.subject.make_golden(self.folder, self.watch, self.reuse)
        self._check_not_guessing()
        self._tiers()
        for target in self.spec.targets:
            self.subject.make_plain(self.folder, target, self.reuse)
            self._instrument(target)
            release_memory((self.folder / Files(target).twin).stat().st_size)
            self.write_inputs(target)
        self._pictures()
        self._warn_of_one_class()
        self._tune()

    # ---- stages

    def _check_not_guessing(self) -> None:
        """Raises GateFailed where the model gets no more right than guessing does, unless the spec allows it."""
        if self.guessing.is_guessing:
            warning = f"test {self.guessing.describe()}"
            if not self.spec.gates.allow_chance_accuracy:
                raise GateFailed(
                    f"{warning} To strike such a model all the same, set gates.allow_chance_accuracy = true"
                )
            log.warning("golden: %s", warning)

    def _tiers(self) -> None:
        tiers = self.spec.tiers
        inputs: dict[str, Any] = {
            "logits": self._hash("golden", LOGITS),
            "edges": list(tiers.edges),
            "images": list(tiers.images),
        }
        if self._begun_with_the_first():
            log.warning(
                "tiers: this campaign was begun with the first images of each tier in data set order, and goes on with them;"
                " for a random choice, all classes in proportion, begin it anew in another folder"
            )
        else:
            inputs |= {"choice": {"by": "class", "seed": self.spec.seed}}

        def build() -> None:
            assigned, test = self.tiers, self.dataset.test
            chosen = choose_per_tier(assigned, tiers.images, test.ids, test.labels, self.spec.seed, tiers.exact)
            for warning in too_small(assigned, tiers.images):
                log.warning("tiers: %s; all of them are taken, and its rates are marked as thin", warning)
            content = TiersFile.of(assigned, test.ids, chosen, test.labels)
            write_json(self.folder / TIERS, content.to_json())

        self.folder.stage("tiers", inputs, [TIERS], build)

    def _begun_with_the_first(self) -> bool:
        """Whether the folder's images were chosen before the choice was a random one."""
        record = self.folder.manifest["stages"].get("tiers")
        return record is not None and "choice" not in record["inputs"]

    def _warn_of_one_class(self) -> None:
        if warning := one_class_warning(self.classes_of(None), len(self.classes)):
            log.warning("tiers: %s", warning)

    def _instrument(self, target: str) -> None:
        files = Files(target)

        def build() -> None:
            plain = (self.folder / files.plain).read_bytes()
            table = self.subject.site_table(plain, target)
            write_bytes(self.folder / files.twin, instrument(plain, table).SerializeToString(deterministic=True))
            table.save(self.folder / files.sites)

        stage, written = f"instrument.{target}", [files.twin, files.sites]
        inputs = {"plain": self._hash(f"export.{target}", files.plain), "ports": self.spec.engine.ports}
        made_from: dict[str, Any] = {**inputs, "sites": []}
        if self.spec.model.onnx is not None:  # the patterns name further tensors of a user's own file
            made_from["sites"] = [pattern for section in self.spec.faults for pattern in section.sites]
        self.folder.stage(stage, inputs, written, self.reuse.stage(stage, self.folder.path, made_from, written, build))

    def write_inputs(self, target: str) -> None:
        """Write what the target is fed for the named images, as one array: workers need neither the model nor the data."""
        files = Files(target)

        def pixels() -> None:
            positions = self.images.positions
            with array_writer(self.folder / files.inputs, len(positions)) as writer:
                for start in range(0, len(positions), _INPUT_ROWS):
                    writer.append(self.dataset.test.batch(positions[start : start + _INPUT_ROWS]))

        def hidden() -> None:
            both = self.folder / files.inputs, self.folder / files.golden
            write_attention(self.spec, self.folder, self.dataset.test, self.images.positions, both, self.watch)

        made_from = {"tiers": self._hash("tiers", TIERS), "golden": self.folder.manifest["stages"]["golden"]["outputs"]}
        if target == TARGET:
            self.folder.stage(f"inputs.{target}", made_from, [files.inputs, files.golden], hidden)
        else:
            self.folder.stage(f"inputs.{target}", made_from, [files.inputs], pixels)

    def _pictures(self) -> None:
        """The named images for people, and what the summary says of model and data: all that is left to take from them."""

        def build() -> PictureFacts:
            write_pictures(self.folder / PICTURES, self.dataset.test, self.images)
            return PictureFacts(
                model=self.subject.described(self.folder),
                data=self._described_data(),
                accuracy=AccuracyFacts(**asdict(self.guessing)),
            )

        self.folder.stage(STAGE, {"tiers": self._hash("tiers", TIERS)}, [PICTURES], build)

    def _described_data(self) -> DescribedData:
        """``source``: of a model that says which data it is for; without the folders of this machine, as all of it."""
        source = self.subject.data_source
        described = self.dataset.describe()
        content = {
            **described.to_json(),
            "name": data_name(described.name),
            "preprocess_told": self.dataset.preprocess.one_line(self.dataset.image),
            "source": None if source is None else portable({"data": asdict(source)})["data"],
        }
        return DescribedData.model_validate(json.loads(json.dumps(content)))

    def _sources(self) -> dict[str, Any]:
        source = self.subject.data_source
        identity = self.spec.identity()
        return identity if source is None else {**identity, "data": asdict(source)}

    def _tune(self) -> None:
        target = self.spec.targets[0]
        influence = facts_of(self.folder, "golden", GoldenFacts).rows_influence
        asked = Tuning(self.spec.engine, most_points(self.spec.faults, self.table(target)), influence)
        made_from = {
            "twin": self._hash(f"instrument.{target}", Files(target).twin),
            "backend": self.spec.engine.backend,
        }

        def build() -> TuneFacts:
            return tune_twin(
                asked, self.folder / Files(target).twin, self.folder / Files(target).inputs, self.table(target)
            )

        whole = {**made_from, **asked.to_json()}
        made = self.reuse.stage("tune", self.folder.path, whole, [], build, on_engine=True)
        self.folder.stage("tune", made_from, [], made)

    def _hash(self, stage: str, file: str) -> str:
        return self.folder.output_hash(stage, file)

    # ---- what later stages read

    @cached_property
    def tiers(self) -> Tiers:
        test = self.dataset.test
        return tiers_from_logits(
            read_array(self.folder / LOGITS), test.labels, TierEdges(self.spec.tiers.edges), test.ids
        )

    def tier_order(self, tier: int) -> NDArray[np.int64]:
        """(n,) positions of a tier's images, in the order in which they become named images."""
        return tier_order(self.tiers, tier, self.dataset.test.ids, self.dataset.test.labels, self.spec.seed)

    @cached_property
    def images(self) -> NamedImages:
        return named_images(self.folder / TIERS)

    def classes_of(self, tier: int | None) -> dict[str, int]:
        """Class name -> named images of it, in a tier or (None) in all."""
        images = self.images
        labels = images.labels if tier is None else images.labels[images.tiers == tier]
        return class_counts(labels, self.classes)

    @cached_property
    def guessing(self) -> Accuracy:
        """The reference golden's accuracy on the test images, against guessing."""
        if self._is_described:
            return Accuracy(**self.described.accuracy.to_json())
        predicted = top1(read_array(self.folder / LOGITS))
        return accuracy_against_guessing(predicted, self.dataset.test.labels, len(self.classes))

    @property
    def classes(self) -> list[str]:
        """Names, in the order of the logits."""
        return list(self.described.data.classes if self._is_described else self.dataset.classes)

    @property
    def _is_described(self) -> bool:
        return STAGE in self.folder.manifest["stages"]

    @property
    def accuracy(self) -> float:
        return facts_of(self.folder, "golden", GoldenFacts).accuracy

    @property
    def described(self) -> PictureFacts:
        """What the summary says of model and data, and the accuracy against guessing."""
        return facts_of(self.folder, STAGE, PictureFacts)

    def table(self, target: str) -> SiteTable:
        if target not in self._tables:
            self._tables[target] = SiteTable.load(self.folder / Files(target).sites)
        return self._tables[target]

    def reference(self, target: str) -> NDArray[np.float32] | None:
        """Reference golden of the named images (n, ...); None where the engine itself is the only one there is."""
        if self.spec.model.onnx is not None and target != TARGET:
            return None
        return Reference.of(self.folder, target).rows(self.folder, self.images)
