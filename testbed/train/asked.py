"""A training as somebody asks for it, by names and settings: what the command line and Python share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from testbed.data.classes.order import kept_classes
from testbed.data.preprocess.stated import kept
from testbed.models.runs import DataSource
from testbed.train.recipes import recipe, recipe_of_preset
from testbed.train.runs import TrainingPlan
from testbed.train.settings import split_settings


def asked_source(
    name: str, root: str | os.PathLike[str] | None, preprocess: str | None, classes: str | None, seed: int
) -> DataSource:
    """The data set ``name`` with what is stated of it, paths and files replaced by what a run folder keeps of them."""
    folder = None if root is None else os.fspath(root)
    return DataSource(name, folder, kept(preprocess), seed, kept_classes(classes))


def plan_training(
    preset: str,
    source: DataSource,
    settings: Mapping[str, Any],
    said_by: str,
    *,
    recipe_name: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    train_images: int | None = None,
) -> TrainingPlan:
    """Plan a training of ``preset`` by a recipe, that of its study unless named.

    settings: keys of the recipe or the model; said_by: what stated them, for messages. Raises UsageError for unknown names
    and for what does not fit together, TestbedError for bad data.
    """
    of_recipe, of_model = split_settings(dict(settings), said_by)
    if epochs is not None:
        of_recipe["epochs"] = epochs
    chosen = recipe(recipe_name or recipe_of_preset(preset), **of_recipe)
    return TrainingPlan.of(preset, source, chosen, seed=seed, overrides=of_model, train_images=train_images)
