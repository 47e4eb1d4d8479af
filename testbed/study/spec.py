"""What a study compares, as TOML: a base, and variants that change some of its settings. Five are ready-made."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from testbed.core.errors import UsageError
from testbed.core.folder.forms import first_wrong
from testbed.core.folder.parsing import text_of, toml_value
from testbed.core.words.nearest import nearest, unknown
from testbed.train.settings import split_settings

_FOLDER = Path(__file__).parent / "ready_made"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Settings = dict[str, Any]
Share = Annotated[float, Field(ge=0, le=1)]


class _StudyTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudyVariant(_StudyTable):
    """One alternative: settings of model and recipe that differ from the base, as `testbed train --set` takes them.

    ``published``: test accuracy in [0, 1] that somebody reported for it in the very setting of the file.
    """

    name: str
    set: Settings = Field(min_length=1)
    published: Share | None = None

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} names a folder: use letters, digits, '_', '-' and '.', 64 at most")
        return name


class StudySpec(_StudyTable):
    """A base and its variants. ``recipe`` None: the one of the preset's study; ``results``: the file of test accuracies."""

    name: str
    about: str = ""
    results: str = "results.json"
    preset: str
    dataset: str
    recipe: str | None = None
    epochs: Annotated[int, Field(ge=1, le=100_000, strict=True)]
    train_images: Annotated[int, Field(ge=1, strict=True)] | None = None
    test_images: Annotated[int, Field(ge=1, strict=True)] | None = None
    set: Settings = {}
    variants: tuple[StudyVariant, ...] = Field(min_length=2, max_length=64)

    @field_validator("name", "results")
    @classmethod
    def _names_a_file(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} names a file: use letters, digits, '_', '-' and '.', 64 at most")
        return name

    @model_validator(mode="after")
    def _has_distinct_variants(self) -> StudySpec:
        names = [variant.name.casefold() for variant in self.variants]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two variants are called {twice!r}; give each a name of its own")
        return self

    def changed(self, settings: Settings, **fields: Any) -> StudySpec:
        """The study with other base settings and fields; None leaves a field as it is.

        Raises UsageError for a setting that every variant sets: it would have no effect.
        """
        for key in settings:
            if all(key in variant.set for variant in self.variants):
                raise UsageError(
                    f"--set {key}: every variant of study {self.name!r} sets it, so it would have no effect; write a"
                    " study of your own: a TOML file"
                )
        given = {name: value for name, value in fields.items() if value is not None}
        return self.model_copy(update=given | {"set": self.set | settings})

    def setting(self) -> dict[str, Any]:
        """What must agree for published values to stand beside ours; JSON-ready."""
        return self.model_dump(exclude={"about", "results"})


@cache
def ready_made_studies() -> dict[str, StudySpec]:
    """Name -> study, in the order of the published report."""
    order = ("patch", "position", "config", "augmentation", "attention")
    return {name: read_study(_FOLDER / f"{name}.toml") for name in order}


def study_named(name: str) -> StudySpec:
    """The ready-made study called ``name``, or the one in a TOML file of that path. Raises UsageError for neither."""
    known = ready_made_studies()
    if name in known:
        return known[name]
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return read_study(Path(name))
    raise UsageError(f"{unknown('study', name, known)}; or name a TOML file of your own")


def read_study(path: Path) -> StudySpec:
    """The study in a TOML file. Raises UsageError, in one line, for a missing file and for what is no study."""
    try:
        values = toml_value(text_of(path))
        study = StudySpec.model_validate(values)
    except FileNotFoundError as error:
        near = nearest(path.stem, ready_made_studies()) if path.parent != _FOLDER else None
        fix = f"did you mean the ready-made study {near!r}?" if near else "ready-made studies: testbed study -h"
        raise UsageError(f"{path}: no such file; {fix}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name a TOML file") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {_complaint(error)}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    for variant in study.variants:
        split_settings(variant.set, f"{path}: variant {variant.name!r}")
    split_settings(study.set, f"{path}: set")
    return study


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] == "extra_forbidden":
        table = StudyVariant if "variants" in first["loc"] else StudySpec
        return unknown("key", str(first["loc"][-1]), table.model_fields)
    return first_wrong(error).replace("value error, ", "").replace("Value error, ", "")
