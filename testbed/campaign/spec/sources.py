"""The tables of a spec that say where model and data are from, each by itself."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from testbed.campaign.spec.errors import shown
from testbed.campaign.spec.fields import Complaint, Count, Strict, refuse
from testbed.core.errors import TestbedError
from testbed.data.classes.order import kept_classes
from testbed.data.preprocess.stated import kept

SEEDS = 2**32


def _kept_preprocess(asked: Any) -> Any:
    """What was stated, by its values; left to pydantic where it is neither text nor a table."""
    try:
        return kept(asked) if isinstance(asked, (str, dict)) else asked
    except TestbedError as error:
        raise ValueError(str(error)) from error


def _kept_classes(asked: Any) -> Any:
    """The names of a stated file; left to pydantic where it is neither text nor a list of it."""
    names = isinstance(asked, (list, tuple)) and all(isinstance(name, str) for name in asked)
    try:
        return kept_classes(asked) if names or isinstance(asked, str) else asked
    except TestbedError as error:
        raise ValueError(str(error)) from error


class DataSpec(Strict):
    """The data set that the model is tested on. Values and names are kept with the campaign, not the paths of files."""

    name: str | None = Field(
        default=None,
        description="Name of the data set (`testbed data list`), `imagefolder:PATH` or `npz:PATH`. Where it is left out, "
        "the data set is the one that the model's run folder names, changed by the keys that are stated here.",
    )
    root: str | None = Field(
        default=None, description="Folder in which the data set called `name` lies, where it is not in the usual place."
    )
    preprocess: Annotated[str | dict[str, Any] | None, BeforeValidator(_kept_preprocess)] = Field(
        default=None,
        description="How images become inputs: a preset's name, a table of values, or a file of them (timm's "
        "`config.json`, Hugging Face's `preprocessor_config.json`, TOML or JSON).",
    )
    classes: Annotated[str | tuple[str, ...] | None, BeforeValidator(_kept_classes)] = Field(
        default=None,
        description='Order of the model\'s outputs, where it is not that of the data set: "natural", "text", "imagenet" '
        "(the 1,000 WordNet ids), the list of names, or a file.",
    )
    images: Count | None = Field(
        default=None,
        description="Number of test images to take; all of them unless stated. A random choice with the classes in "
        "proportion.",
    )

    @model_validator(mode="after")
    def _root_of_a_name(self) -> DataSpec:
        if self.root is not None and self.name is None:
            raise ValueError("root is where the data set called name lies; state name, too")
        return self


class ModelSpec(Strict):
    """The model: `preset` with `recipe`, which trains it on first use; or `run`, a trained model; or `onnx`, a file."""

    preset: str | None = Field(default=None, description="Name of an architecture (`testbed train -h` lists them).")
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description='What differs from the preset: keys of the model\'s configuration, such as `{ activation = "relu" }`.',
    )
    recipe: str | None = Field(default=None, description="Name of the recipe that trains the preset on first use.")
    training: dict[str, Any] = Field(
        default_factory=dict,
        description="What differs from the recipe, such as `{ epochs = 5 }`, and `seed`, that of the training and of the "
        "data set's split (the campaign's unless stated). With a seed of its own the model stays the same "
        "when the campaign's seed changes. For an `onnx` file, `{ seed = 0 }` alone: that of the split it was trained on.",
    )
    run: str | None = Field(
        default=None,
        description="Run folder of a trained model, written by `testbed train`, `testbed import` or `testbed prune`.",
    )
    onnx: str | None = Field(default=None, description="ONNX file of a Vision Transformer of any origin.")
    output: str | None = Field(
        default=None,
        description="Name of the `onnx` file's output that holds the logits, where it has several and neither their "
        "classes nor their names say which.",
    )
    image_size: int | None = Field(
        default=None,
        ge=1,
        le=8192,
        description="Height and width of the images that the `onnx` file is fed, where it leaves them open and its weights do "
        "not say them.",
    )

    @field_validator("training")
    @classmethod
    def _seed_of_its_own(cls, training: dict[str, Any]) -> dict[str, Any]:
        seed = training.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
            refuse([Complaint("seed", f"{shown(seed)} is not a whole number from 0 to {SEEDS - 1}")])
        return training

    @property
    def recipe_changes(self) -> dict[str, Any]:
        return {key: value for key, value in self.training.items() if key != "seed"}

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        others = self.preset or self.recipe or self.overrides or self.recipe_changes
        if self.onnx is not None and (others or self.run is not None):
            raise ValueError(
                "onnx names a finished model; leave out run, preset, overrides, recipe and training (but for its seed)"
            )
        if self.output is not None and self.onnx is None:
            raise ValueError("output is one of an ONNX file; name the file (onnx = FILE.onnx), or leave it out")
        if self.image_size is not None and self.onnx is None:
            raise ValueError("image_size is of an ONNX file; name the file (onnx = FILE.onnx), or leave it out")
        if self.run is not None and (others or self.training):
            raise ValueError("run names a trained model; leave out preset, overrides, recipe and training")
        if self.run is None and self.onnx is None and (self.preset is None or self.recipe is None):
            raise ValueError(
                "name a preset and a recipe, or the folder of a trained model: run = DIR, or a file: onnx = FILE.onnx"
            )
        return self
