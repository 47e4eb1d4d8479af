"""What the gates proved of faster evaluations: which evaluation of a target's faults may be used, and what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt

from testbed.core.folder.forms import Form
from testbed.core.site import Where

EvaluatedBy = Literal["whole", "suffix", "attention"]
WHOLE: EvaluatedBy = "whole"

_Table = dict[str, JsonValue]


class WayCheck(Form):
    """Sampled faults that were evaluated in one way, and those whose bits differed from the whole twin's."""

    rows: NonNegativeInt
    mismatches: NonNegativeInt


class SuffixTrial(Form):
    """One set of shortcuts, and how it did. ``wrong``: what differed; empty where it passed."""

    plan: _Table
    passed: bool
    wrong: str


class SuffixRecord(Form):
    """What the gate of suffix replay saw. ``plan``: the shortcuts that may be used; None where none may."""

    plan: _Table | None
    golden_images: NonNegativeInt
    golden_mismatches: NonNegativeInt
    rows: NonNegativeInt
    ways: dict[str, WayCheck]
    tried: list[SuffixTrial] = Field(default_factory=list)
    error: str = ""

    @property
    def mismatches(self) -> int:
        return sum(way.mismatches for way in self.ways.values())


class WeightTrial(Form):
    """One form of weight suffixes, and what differed; empty where nothing did."""

    plan: _Table
    wrong: str


class WeightRecord(Form):
    """What the gate of weight suffixes saw. ``plan``: the form that may be used; None where none may."""

    plan: _Table | None
    faults: NonNegativeInt
    tried: list[WeightTrial] = Field(default_factory=list)


class SiteProof(Form):
    """The path proven for one kind of site of the attention subnetwork.

    ``rows`` and ``suffix``, of those exact paths that were tried: how many of the faults differed, or why it cannot be
    taken. ``incremental``: largest share of its error bound that a result used; None where there is no weight to
    multiply by.
    """

    path: str
    faults: NonNegativeInt
    rows: int | str | None = None
    suffix: int | str | None = None
    incremental: float | None = None


class AttentionRecord(Form):
    """What the gate of the attention subnetwork saw. ``sizes``: per stage, the numbers of rows or columns that give the
    whole twin's bits; ``sites``: per kind of site."""

    sizes: dict[str, list[PositiveInt]]
    sites: dict[str, SiteProof]
    why: str = ""


@dataclass(frozen=True)
class Proof:
    """Which evaluation the gates found to give the whole engine's bits, for the faults of one target in one place.

    ``why``: why it is not a faster one. ``record``: what was seen, of the form that belongs to ``target`` and ``where``;
    empty where nothing was tried. It is read by `Proof.seen`, since a folder may be of another version.
    """

    target: str
    where: Where
    by: EvaluatedBy
    why: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return its key in manifests and summaries: "model" for activations, "model.weight" for weights."""
        return self.target if self.where == "activation" else f"{self.target}.{self.where}"

    @classmethod
    def of(cls, key: str, content: Mapping[str, Any]) -> Proof:
        """Read it from its key and content in a manifest or a summary. Raises ValueError for an unknown evaluation."""
        target, _, where = key.partition(".")
        by = content["by"]
        if by not in get_args(EvaluatedBy):
            raise ValueError(f"no evaluation is called {by!r}")
        location: Where = "weight" if where == "weight" else "activation"
        return cls(target, location, by, content.get("why"), content.get("record") or {})

    @property
    def seen(self) -> SuffixRecord | WeightRecord | AttentionRecord | None:
        """The record, typed; None where nothing was tried. Raises ValueError for one of another form."""
        if not self.record:
            return None
        if self.where == "weight":
            return WeightRecord.model_validate(self.record)
        return (AttentionRecord if self.target == "attention" else SuffixRecord).model_validate(self.record)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {"by": self.by}
        if self.why is not None:
            content["why"] = self.why
        return content | ({"record": dict(self.record)} if self.record else {})
