"""Settings of a training by name: which are of the recipe, which of the model. No name is of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from testbed.core.errors import UsageError
from testbed.core.words.nearest import meant
from testbed.models.config import ViTConfig
from testbed.models.presets import DEPTH
from testbed.train.recipes import Recipe


def recipe_keys() -> list[str]:
    """Names of a recipe's settings, but that of the recipe itself."""
    return [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]


def model_keys() -> list[str]:
    """Names of a model's settings, as `testbed.models.presets.preset` takes them."""
    return [*(field.name for field in dataclasses.fields(ViTConfig)), DEPTH]


def split_settings(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """``values`` as (the recipe's, the model's). Raises UsageError, beginning with ``where``, for an unknown name."""
    of_recipe: dict[str, Any] = {}
    of_model: dict[str, Any] = {}
    known_recipe, known_model = recipe_keys(), model_keys()
    for key, value in values.items():
        if key not in known_recipe + known_model:
            near = meant(key, known_recipe + known_model)
            known = f"of the recipe {', '.join(known_recipe)}; of the model {', '.join(known_model)}"
            raise UsageError(f"{where}: unknown key {key!r}{near or ';'} {'Known' if near else 'known'} keys {known}")
        (of_model if key in known_model else of_recipe)[key] = value
    return of_recipe, of_model
