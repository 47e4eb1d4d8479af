"""The two campaigns of a paired comparison, refused where their rows could not be laid to protection alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import pandas as pd
import pyarrow as pa

from testbed.campaign.files import RESULTS, TIERS, Files
from testbed.campaign.folder.images import read_tiers
from testbed.campaign.results.reader import RESULT_TABLE
from testbed.compare.same_model import check_same_model
from testbed.compare.side import Side
from testbed.core.errors import UsageError
from testbed.core.folder.parsing import json_value
from testbed.core.protected import PROTECTION

_MODEL = Files("model")
_MORE = ("kind", "mismatches", "recovered")


@dataclass(frozen=True)
class PairedSide(Side):
    """A finished campaign of a plain or a protected model. Raises as `Side` does."""

    @cached_property
    def passes(self) -> tuple[str, ...] | None:
        """Names of the passes that the deployed model was protected with; None of a plain one."""
        if "model" not in self.spec.targets:
            return None
        self.folder.verify_file(_MODEL.plain)
        proto = onnx.load(str(self.folder / _MODEL.plain), load_external_data=False)
        texts = [entry.value for entry in proto.metadata_props if entry.key == PROTECTION]
        return _names(json_value(texts[0])) if texts else None

    @cached_property
    def judged_rows(self) -> pd.DataFrame:
        """`rows`, with the kind of the site, the number of output elements outside the tolerance, and what a second run gave: 1
        an output within it, 0 none, -1 where nothing was run again."""
        table = RESULT_TABLE.read(self.folder / RESULTS, _MORE)
        kind = table.column("kind").cast(pa.string()).to_pandas()
        mismatches = table.column("mismatches").to_pandas().fillna(0).astype("int64")
        recovered = table.column("recovered").cast(pa.int8()).to_pandas().fillna(-1).astype("int8")
        return self.rows.assign(kind=kind, mismatches=mismatches, recovered=recovered)


@dataclass(frozen=True)
class PairedSides:
    """The plain campaign, the protected one, and what differs between them that does not forbid a comparison."""

    plain: PairedSide
    protected: PairedSide
    notes: tuple[str, ...]

    @classmethod
    def of(cls, plain: Path, protected: Path) -> PairedSides:
        """Read both. Raises UsageError for folders without a campaign, for two models, for a side that is not what its
        place says, and for settings under which outcomes would differ anyway; StaleArtefact for a campaign that is not
        finished or whose files were changed."""
        return cls.between(PairedSide.of(plain), PairedSide.of(protected))

    @classmethod
    def between(cls, first: PairedSide, second: PairedSide) -> PairedSides:
        """Those of two campaigns that were read. first: of the plain model. Raises UsageError as `of` does."""
        _check_places(first, second)
        _check_settings(first, second)
        unknown = check_same_model(first, second)
        _check_images(first, second)
        return cls(first, second, (*([unknown] if unknown else []), *_notes(first, second)))


def _names(passes: Any) -> tuple[str, ...]:
    """Names of passes, of what a protected file says of itself: a list of tables that name theirs, or a table by name."""
    if isinstance(passes, dict):
        return tuple(map(str, passes))
    return tuple(str(entry["pass"]) if isinstance(entry, dict) and "pass" in entry else str(entry) for entry in passes)


def _check_places(plain: PairedSide, protected: PairedSide) -> None:
    if plain.passes is not None and protected.passes is None:
        raise UsageError(
            f"{plain.path} is the campaign of a protected model, and {protected.path} of a plain one; name the plain one"
            " first"
        )
    if plain.passes is not None:
        raise UsageError(
            f"{plain.path} is the campaign of a protected model; name a campaign of the plain model first, then the protected"
            " one"
        )
    if protected.passes is None:
        raise UsageError(
            f"{protected.path} is the campaign of a model that is not protected; protect it with `testbed protect`, and run"
            " the campaign on that"
        )


def _check_settings(plain: PairedSide, protected: PairedSide) -> None:
    for name, first, second in zip(_SETTINGS, _settings(plain), _settings(protected), strict=True):
        if first != second:
            raise UsageError(
                f"{name} differs: {first} in {plain.path}, {second} in {protected.path}; outcomes would differ without any"
                f" protection, so run both campaigns with one {name}"
            )


_SETTINGS = ("engine.backend", "engine.precision", "tolerance.atol", "tolerance.rtol", "detector")


def _settings(side: PairedSide) -> tuple[object, ...]:
    spec = side.spec
    atol = spec.tolerance.per_tier(len(spec.tiers.edges))
    return spec.engine.backend, spec.engine.precision, list(atol), spec.tolerance.rtol, spec.detector


def _check_images(plain: PairedSide, protected: PairedSide) -> None:
    """Ids are those of a data set; the labels tell two sets apart."""
    labels = [{image.id: image.label for image in read_tiers(side.folder / TIERS).named} for side in (plain, protected)]
    differing = [name for name, label in labels[0].items() if labels[1].get(name, label) != label]
    if differing:
        raise UsageError(
            f"{plain.path} and {protected.path} name images of two data sets: {differing[0]} is not of the same class in"
            " both; run both campaigns on one data set"
        )


def _notes(plain: PairedSide, protected: PairedSide) -> Iterator[str]:
    if plain.spec.confidence != protected.spec.confidence:
        yield (
            f"intervals are at the plain campaign's confidence, {plain.spec.confidence:g}; the protected one asks for"
            f" {protected.spec.confidence:g}"
        )
    first, second = set(plain.images), set(protected.images)
    if first != second:
        yield (
            f"the plain campaign names {len(first)} images, the protected one {len(second)}; {len(first & second)} are"
            " common, and only those are compared"
        )
    ours, other = (side.spec.engine.model_dump(mode="json") for side in (plain, protected))
    if differing := [key for key in ours if ours[key] != other[key]]:
        yield "the engines are set up differently: " + ", ".join(
            f"{key} {ours[key]} and {other[key]}" for key in differing
        )
