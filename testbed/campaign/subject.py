"""What a campaign is about: a trained model, or one to be trained, and the images it is judged on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from testbed.campaign.spec import CampaignSpec
from testbed.core.errors import UsageError
from testbed.data import Dataset, load
from testbed.models.config import ViTConfig
from testbed.models.presets import preset
from testbed.models.runs import DataSource, ModelRun, open_model_run
from testbed.train import Recipe, recipe


@dataclass(frozen=True)
class Subject:
    """``recipe`` trains a preset on first use; it is None for a model that is trained already (``trained``)."""

    dataset: Dataset
    config: ViTConfig
    recipe: Recipe | None
    trained: ModelRun | None

    @property
    def name(self) -> str:
        """For people."""
        return str(self.trained.folder.manifest["name"]) if self.trained else "trained here"


def subject_of(spec: CampaignSpec) -> Subject:
    """Raises UsageError for a data set, preset, recipe or folder that does not exist, or that do not fit each other."""
    if spec.model.run is None:
        assert spec.model.preset is not None
        assert spec.model.recipe is not None
        config = preset(spec.model.preset, **spec.model.overrides)
        subject = Subject(_dataset(spec, None, None), config, recipe(spec.model.recipe, **spec.model.training), None)
    else:
        trained = open_model_run(Path(spec.model.run))
        config = trained.model.config
        subject = Subject(_dataset(spec, trained.data, config.image), config, None, trained)
    _check_fit(subject.config, subject.dataset)
    return subject


def _dataset(spec: CampaignSpec, source: DataSource | None, image: int | None) -> Dataset:
    if spec.data is not None:
        asked = spec.data
        dataset = load(asked.name, root=asked.root, preprocess=asked.preprocess, image=image, seed=spec.seed)
        if asked.images is not None:
            dataset = replace(dataset, test=dataset.test.subset(slice(0, asked.images)))
        return dataset
    if source is None:
        raise UsageError(f"{spec.model.run} does not say which data its model is for; name it: [data] name = ...")
    return load(source.name, root=source.root, preprocess=source.preprocess, image=image, seed=source.seed)


def _check_fit(config: ViTConfig, dataset: Dataset) -> None:
    wanted = (config.image, config.channels, config.classes)
    found = (dataset.image, dataset.channels, len(dataset.classes))
    for name, want, have in zip(("image", "channels", "classes"), wanted, found, strict=True):
        if want != have:
            raise UsageError(
                f"the model has {name} = {want} but data set {dataset.name!r} has {have};"
                f" set model.overrides.{name} = {have} or choose another model or data set"
            )
    if config.depth < 1 or not config.heads[0]:
        raise UsageError("the model's first block has no attention; choose a model whose first block has heads")
