"""What a campaign is about: a model with its goldens, and the images it is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.choice import TEST_IMAGES
from testbed.campaign.described import DescribedModel
from testbed.campaign.prepare.as_trained import check_like_model_run
from testbed.campaign.results.progress import Watch
from testbed.campaign.reuse.reuse import Reuse
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import GateFailed, StaleArtefact, UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import SiteTable
from testbed.data import Dataset, Split, load
from testbed.golden.arrays import read_array
from testbed.golden.reference import LOGITS
from testbed.golden.shared import SharedGolden, array_name
from testbed.models.runs import DataSource


class Sketch(NamedTuple):
    """A plain file before a campaign is prepared. images: one batch of empty inputs; weights: those that the file only
    names (see `EngineRequest`)."""

    plain: bytes
    images: NDArray[np.float32]
    weights: Mapping[str, NDArray] = {}


@dataclass(frozen=True)
class KnownModel:
    """What is known of a campaign's model before anything is run for it: from the cache, and from run folders.

    ``training_epochs``: that the campaign will begin with; none where the model is there. ``logits``: the reference
    golden of all test images (n, K); None where it is yet to be recorded."""

    training_epochs: int = 0
    logits: NDArray[np.float32] | None = None


class PreviewSubject(Protocol):
    """What can be told of a model before it is there."""

    @property
    def dataset(self) -> Dataset: ...

    def known(self) -> KnownModel:
        """What need not be made any more. Runs nothing."""

    def check_sites(self) -> None:
        """Raises UsageError for a site that the model will not have, before anything is made for it."""

    def sketch(self, target: str) -> Sketch:
        """A plain ONNX file of the same shape as the campaign's."""

    def site_table(self, plain: bytes, target: str) -> SiteTable: ...


class Subject(PreviewSubject, Protocol):
    """A model that the testbed trains or has trained, or a user's own ONNX file. Arrays are of all test images.

    Building one raises UsageError for a data set, preset, recipe, folder or file that does not exist or does not fit.
    """

    @property
    def raises_alarms(self) -> bool:
        """Whether what is deployed checks itself, and says of each image whether there was an alarm."""

    @property
    def data_source(self) -> DataSource | None:
        """The data set that a trained model is for; None where the spec names one."""

    def make_golden(self, folder: RunFolder, watch: Watch = ..., reuse: Reuse = ...) -> None:
        """The stages up to the golden: golden/logits.npy, and in the manifest its ``accuracy``."""

    def make_plain(self, folder: RunFolder, target: str, reuse: Reuse = ...) -> None:
        """The stage that writes the target's plain ONNX file."""

    def described(self, folder: RunFolder) -> DescribedModel:
        """Describes the model for the summary."""


def cached_logits(shared: SharedGolden) -> NDArray[np.float32] | None:
    """None where they are not in the cache, or are damaged there."""
    cached = shared.cached(array_name(LOGITS))
    digest = cached.digest()
    try:
        if digest is None or sha256_file(cached.path) != digest:
            return None
        return np.array(read_array(cached.path))
    except (OSError, StaleArtefact):  # forgotten meanwhile
        return None


def stages_of(spec: CampaignSpec) -> list[str]:
    """A subject's stages, up to the twins, in the order in which they run."""
    if spec.model.onnx is not None:
        cuts = [f"export.{target}" for target in spec.targets if target != "model"]
        return ["export.model", "golden", "tiers", *cuts, *(f"instrument.{target}" for target in spec.targets)]
    per_target = [f"{stage}.{target}" for target in spec.targets for stage in ("export", "instrument")]
    return ["train", "golden", "tiers", *per_target]


def dataset_of(spec: CampaignSpec, source: DataSource | None, image: int | None) -> Dataset:
    """The spec's data set, or the one that a trained model is for (``source``), with what the spec states of it.

    image: pixels of a side.
    """
    asked = spec.data
    if asked is not None and asked.name is not None:
        dataset = load(
            asked.name,
            root=asked.root,
            preprocess=asked.preprocess,
            classes=asked.classes,
            image=image,
            seed=spec.training_seed,
        )
        check_like_model_run(asked, dataset, source)
    elif source is None:
        raise UsageError(f"{spec.model.run} does not say which data its model is for; name it: [data] name = ...")
    else:
        options = source.options
        if asked is not None and asked.preprocess is not None:
            options["preprocess"] = asked.preprocess
        if asked is not None and asked.classes is not None:
            options["classes"] = asked.classes
        dataset = load(source.name, image=image, **options)
    if asked is not None and asked.images is not None:
        dataset = replace(dataset, test=_test_part(dataset, asked.images, spec.seed))
    return dataset


def _test_part(dataset: Dataset, images: int, seed: int) -> Split:
    """A part of the test images, all of them where there are fewer."""
    return dataset.test.chosen(min(images, len(dataset.test)), seed, TEST_IMAGES)


def check_accuracy(accuracy: float, bound: float, fix: str) -> None:
    """Raises GateFailed when the model is not as good as the spec asks."""
    if accuracy < bound:
        raise GateFailed(f"test accuracy {accuracy:.4f} is below gates.test_accuracy {bound}; {fix} or lower the gate")
