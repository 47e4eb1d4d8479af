"""What a study trains: each variant on each seed, checked before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from testbed.analysis.outputs.choice import TEST_IMAGES
from testbed.core.errors import UsageError
from testbed.data import Dataset, load
from testbed.models.presets import preset
from testbed.models.runs import DataSource
from testbed.study.spec import StudySpec, StudyVariant, ready_made_studies, study_named
from testbed.train.asked import asked_source
from testbed.train.recipes import recipe, recipe_of_preset
from testbed.train.runs import TrainingPlan
from testbed.train.settings import split_settings

RUNS = "runs"
MOST_SEEDS = 1000


@dataclass(frozen=True)
class VariantPlan:
    """A variant, and a training of it for each seed."""

    variant: StudyVariant
    trainings: tuple[TrainingPlan, ...]

    def folder(self, seed: int) -> Path:
        """Name the folder of the training of this seed, below the study's."""
        return Path(RUNS) / self.variant.name / f"seed-{seed}"


@dataclass(frozen=True)
class StudyPlan:
    """``spec`` has every change that was asked for. Seed s decides split, weights, order and augmentation of training s;
    the test images are the same for all."""

    spec: StudySpec
    source: DataSource
    seeds: tuple[int, ...]
    variants: tuple[VariantPlan, ...]

    @classmethod
    def of(cls, spec: StudySpec, source: DataSource, seeds: int, first_seed: int = 0) -> StudyPlan:
        """Plans ``seeds`` trainings of each variant; ``source`` is the data set of ``spec``, with how it is read.

        Raises UsageError for settings that do not fit together, naming the variant, and for too few images; TestbedError
        for bad data.
        """
        if not 1 <= seeds <= MOST_SEEDS:
            raise UsageError(f"a study takes 1 to {MOST_SEEDS} seeds, not {seeds}")
        numbers = tuple(range(first_seed, first_seed + seeds))
        loaded: dict[tuple[int, int], Dataset] = {}
        planned = [
            VariantPlan(variant, tuple(_training(spec, variant, source, seed, loaded) for seed in numbers))
            for variant in spec.variants
        ]
        return cls(spec, source, numbers, tuple(planned))

    @property
    def is_published_setting(self) -> bool:
        """Are published values of the very setting that is trained here?"""
        if all(variant.published is None for variant in self.spec.variants) or self.source.preprocess is not None:
            return False
        original = ready_made_studies().get(self.spec.name)
        return original is None or original.setting() == self.spec.setting()

    def trainings(self) -> Iterator[tuple[VariantPlan, int, TrainingPlan]]:
        """(variant, seed, training), variant by variant."""
        for planned in self.variants:
            for seed, training in zip(self.seeds, planned.trainings, strict=True):
                yield planned, seed, training

    def identity(self) -> dict[str, Any]:
        """What a begun folder must be of, to be gone on with; more seeds may be asked for later. JSON-ready."""
        source = {key: value for key, value in asdict(self.source).items() if key != "seed"}
        return {"study": self.spec.model_dump(mode="json"), "data": source, "first_seed": self.seeds[0]}

    def describe(self) -> dict[str, Any]:
        """JSON-ready, for people who ask what would be trained."""
        first = self.variants[0].trainings[0]
        return {
            "study": self.spec.name,
            "about": self.spec.about,
            "preset": self.spec.preset,
            "dataset": first.dataset.describe().to_json(),
            "recipe": first.recipe.to_json(),
            "seeds": list(self.seeds),
            "trainings": len(self.seeds) * len(self.variants),
            "is_published_setting": self.is_published_setting,
            "variants": [
                {
                    "name": planned.variant.name,
                    "set": planned.variant.set,
                    "parameters": planned.trainings[0].parameters,
                    "published": planned.variant.published,
                }
                for planned in self.variants
            ],
        }


def plan_study(
    study: str,
    settings: Mapping[str, Any],
    said_by: str,
    *,
    dataset: str | None = None,
    root: str | os.PathLike[str] | None = None,
    preprocess: str | None = None,
    classes: str | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    epochs: int | None = None,
    seeds: int = 3,
    seed: int = 0,
) -> StudyPlan:
    """Plan a ready-made study, or one in a TOML file, with what is changed of it.

    settings: keys of the recipe or the model, for all variants; said_by: what stated them, for messages. Raises UsageError
    for unknown names and as `StudyPlan.of`.
    """
    split_settings(dict(settings), said_by)
    spec = study_named(study).changed(
        dict(settings), dataset=dataset, epochs=epochs, train_images=train_images, test_images=test_images
    )
    return StudyPlan.of(spec, asked_source(spec.dataset, root, preprocess, classes, seed), seeds, seed)


def _training(
    spec: StudySpec, variant: StudyVariant, source: DataSource, seed: int, loaded: dict[tuple[int, int], Dataset]
) -> TrainingPlan:
    where = f"study {spec.name!r}, variant {variant.name!r}"
    of_recipe, of_model = split_settings(spec.set | variant.set, where)
    if of_recipe.pop("select", "best") != "best":
        raise UsageError(f"{where}: a study chooses the epoch by validation images; leave select out")
    chosen = recipe(
        spec.recipe or recipe_of_preset(spec.preset), **{"epochs": spec.epochs, **of_recipe, "select": "best"}
    )
    seeded = replace(source, seed=seed)
    try:
        side = preset(spec.preset, **of_model).image
        if (side, seed) not in loaded:
            loaded[side, seed] = _loaded(spec, seeded, side)
        return TrainingPlan.on(loaded[side, seed], spec.preset, seeded, chosen, seed=seed, overrides=of_model)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _loaded(spec: StudySpec, source: DataSource, side: int) -> Dataset:
    dataset = load(source.name, image=side, **source.options)
    if spec.train_images is not None:
        dataset = dataset.with_train_images(spec.train_images)
    if spec.test_images is not None:
        dataset = replace(dataset, test=dataset.test.chosen(spec.test_images, 0, TEST_IMAGES))
    return dataset
