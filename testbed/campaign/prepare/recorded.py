"""A campaign's model and data as its run folder has them, once it is prepared: for machines that have neither."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from testbed.campaign.described import DescribedModel, PictureFacts
from testbed.campaign.facts import GoldenFacts
from testbed.campaign.files import Files
from testbed.campaign.prepare.subject import KnownModel, Sketch, check_accuracy, dataset_of, stages_of
from testbed.campaign.results.progress import Watch, unwatched
from testbed.campaign.reuse.reuse import NO_REUSE, Reuse
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import StaleArtefact, TestbedError
from testbed.core.folder.places import with_sources
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.protected import is_detecting
from testbed.core.site import SiteTable
from testbed.data import Dataset
from testbed.engines.weights import weights_beside
from testbed.golden.arrays import read_array
from testbed.golden.reference import LOGITS
from testbed.instrument.shapes import fixed_batch
from testbed.models.runs import DataSource

STAGE = "pictures"
"""The stage whose facts say what is kept of the model and the data."""


def is_recorded(folder: RunFolder, spec: CampaignSpec) -> bool:
    """Are all stages done that need the model's and the data's sources?"""
    stages = folder.manifest.get("stages", {})
    return all(stage in stages for stage in (*stages_of(spec), STAGE))


def preparation_stages(spec: CampaignSpec) -> list[str]:
    """The stages before the first fault, in the order in which they run."""
    return [*stages_of(spec), *(f"inputs.{target}" for target in spec.targets), STAGE, "tune"]


def verify_prepared(folder: RunFolder, spec: CampaignSpec) -> None:
    """Raises StaleArtefact for a campaign that is not prepared, or whose files were changed since."""
    for stage in preparation_stages(spec):
        if stage != STAGE or stage in folder.manifest["stages"]:  # which older folders do not have
            folder.verify(stage)


@dataclass(frozen=True)
class RecordedSubject:
    """Only to be read: its stages are those recorded, and are checked to be whole."""

    spec: CampaignSpec
    folder: RunFolder

    @property
    def facts(self) -> PictureFacts:
        return facts_of(self.folder, STAGE, PictureFacts)

    @cached_property
    def dataset(self) -> Dataset:
        """Where it is at hand. Raises TestbedError where it is not, or is another than the one the campaign was made on."""
        recorded, source = self.facts.data, self.data_source
        try:
            dataset = dataset_of(self.spec, source, recorded.image)
        except TestbedError as error:
            raise TestbedError(f"this asks for more than the run folder holds: {error}") from error
        if dataset.test.sha256() != self.folder.manifest["stages"]["golden"]["inputs"].get("test"):
            raise StaleArtefact(
                f"data set {dataset.name!r} has other test images than the ones that {self.folder.path} was made on"
            )
        return dataset

    @property
    def raises_alarms(self) -> bool:
        return is_detecting(onnx.load(self.folder / Files("model").plain, load_external_data=False))

    @property
    def data_source(self) -> DataSource | None:
        """The data source, with the full path where that is recorded beside it."""
        source = self.facts.data.source
        return None if source is None else DataSource(**with_sources({"data": source}, self.folder.path)["data"])

    def known(self) -> KnownModel:
        return KnownModel(logits=read_array(self.folder / LOGITS))

    def check_sites(self) -> None:
        """They were checked when the campaign was begun."""

    def sketch(self, target: str) -> Sketch:
        """The plain file itself."""
        inputs = read_array(self.folder / Files(target).inputs)
        plain = (self.folder / Files(target).plain).read_bytes()
        batch = fixed_batch(onnx.load_from_string(plain)) or self.spec.engine.sketched_batch
        images = np.zeros((batch, *inputs.shape[1:]), np.float32)
        return Sketch(plain, images, weights_beside(plain, self.folder.path))

    def site_table(self, plain: bytes, target: str) -> SiteTable:
        return SiteTable.load(self.folder / Files(target).sites)

    def make_golden(self, folder: RunFolder, watch: Watch = unwatched, reuse: Reuse = NO_REUSE) -> None:
        for stage in stages_of(self.spec)[:2]:
            folder.verify(stage)
        accuracy = facts_of(folder, "golden", GoldenFacts).accuracy
        check_accuracy(accuracy, self.spec.gates.test_accuracy, "it is the recorded one: begin anew")

    def make_plain(self, folder: RunFolder, target: str, reuse: Reuse = NO_REUSE) -> None:
        folder.verify(f"export.{target}")

    def described(self, folder: RunFolder) -> DescribedModel:
        return self.facts.model
