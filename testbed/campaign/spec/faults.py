"""One [[faults]] section of a spec, in three kinds of choice that do not know each other.

selector     target, where, sites, scope; and pattern with its size: which words are struck together
format       bits: which of a word's bits; what they mean is the struck tensor's own format
error model  ops: what happens to them
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from testbed.campaign.spec.fields import AtMost, Complaint, Count, Strict, refuse
from testbed.core.fault import OPS, DrawnOp, Op, Scope
from testbed.core.patterns import BurstPattern, ColumnPattern, ElementPattern, Pattern, RowPattern, TilePattern
from testbed.core.site import Target, Where

PatternKind = Literal["single", "bits", "burst", "row", "column", "tile", "sites"]
_SIZES: dict[str, tuple[str, ...]] = {
    "single": (),
    "bits": ("count",),
    "burst": ("length",),
    "row": (),
    "column": (),
    "tile": ("rows", "columns"),
    "sites": ("count",),
}
_ONE_WORD = ("single", "bits")
_WORDS = AtMost(1 << 24, "the words of one fault are held at once")
_TOP_BIT = 31
_RANGE = re.compile(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4}))?\s*")


_BITS_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^(all|\s*\d+\s*(-\s*\d+\s*)?(,\s*\d+\s*(-\s*\d+\s*)?)*)$"},
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": _TOP_BIT}},
    ]
}


def _bits_of(asked: Any) -> Any:
    """The numbers in "20-30" or "0-3, 31"; anything else as it is."""
    if not isinstance(asked, str) or asked == "all":
        return asked
    ranges = [_RANGE.fullmatch(part) for part in asked.split(",")]
    bits: list[int] = []
    for part in ranges:
        low, high = (int(part[1]), int(part[2] or part[1])) if part else (1, 0)
        if low > high:
            raise ValueError(
                f'{asked!r} are no bits; write a list, such as [0, 1, 30], a range, such as "20-30", or "all"'
            )
        if high > _TOP_BIT:
            raise ValueError(f"{asked!r}: there are bits 0 to {_TOP_BIT}")
        bits += range(low, high + 1)
    return bits


class FaultSpec(Strict):
    """Faults of one target and place: in which tensors, what happens to which bits, and how many per stratum.

    A stratum is site x op x bit (x tier for activation faults that last one inference). One that several sections name is
    drawn from once, as often as the section asks that wants most of it.
    """

    target: Target = Field(
        description='What is run: the whole "model", or one "attention" module, compiled on its own: the first, or that of '
        "the block that `[attention]` names."
    )
    where: Where = Field(
        description='Where the faults are: in an "activation", for one inference of one image, or in a "weight", for '
        "every named image."
    )
    sites: tuple[str, ...] = Field(
        default=("*",),
        description='Patterns of site names, such as "block.*.attn.softmax"; all sites of the target unless stated.',
    )
    ops: tuple[DrawnOp, ...] = Field(
        default=OPS,
        description='What happens to the bits: "flip"; "stuck0" or "stuck1", to 0 or 1; "random", any word. All of them '
        'unless stated, but "random" with pattern = "bits".',
    )
    bits: Annotated[
        Literal["all"] | tuple[Annotated[int, Field(ge=0, le=_TOP_BIT)], ...],
        BeforeValidator(_bits_of),
        WithJsonSchema(_BITS_SCHEMA),
    ] = Field(
        default="all",
        description="Which bits of a word, 0 the least significant: a list, such as [0, 30], a text with ranges, such as "
        '"20-30" or "0-3, 31", or "all".',
    )
    pattern: PatternKind = Field(
        default="single",
        description="Which words one fault changes together.\n\n"
        '- "single": one word\n'
        '- "bits": `count` bits of one word\n'
        '- "burst": `length` elements next to each other in the tensor\'s flat order\n'
        '- "row", "column": of a matrix, which is an activation\'s last two axes, or a weight\'s outputs by inputs\n'
        '- "tile": `rows` x `columns` of a matrix, on a grid of such tiles, cut at its edges\n'
        '- "sites": `count` single faults at different sites in one inference; several activations need engine.ports = "op"',
    )
    count: Annotated[int, Field(ge=2), _WORDS] | None = Field(
        default=None, description='Number of bits of pattern "bits", or of sites of pattern "sites".'
    )
    length: Annotated[int, Field(ge=2), _WORDS] | None = Field(
        default=None, description='Number of elements of pattern "burst".'
    )
    rows: Count | None = Field(default=None, description='Rows of pattern "tile".')
    columns: Count | None = Field(default=None, description='Columns of pattern "tile".')
    adjacent: bool = Field(default=False, description='The bits of pattern "bits" are next to each other.')
    same_bit: bool = Field(
        default=True,
        description="All words of a burst, row, column or tile are changed in the same bit, that of the stratum; else "
        "each in a bit of its own. Random words, and the bits of several sites, are always drawn one by one.",
    )
    scope: Scope | None = Field(
        default=None,
        description='How long an activation fault lasts: "inference", one inference of one image (the usual), or '
        '"persistent", every image; the latter has no tier. A weight fault always lasts.',
    )
    images: Literal["auto", "all"] | Count | None = Field(
        default=None,
        description='On which of the named images a persistent fault is run: "all" of them; so many, drawn anew for each '
        'fault, about as many of each tier; or "auto", as many as give most for their time, by a pilot before the plan. "all" '
        'unless stated, and "auto" in a campaign with stop.relative.',
    )
    per_stratum: Count = Field(default=1, description="Faults drawn from each stratum. With `[stop]` it is left out.")

    @field_validator("ops", "sites", "bits")
    @classmethod
    def _each_once(cls, values: Any) -> Any:
        if not values:
            raise ValueError("names nothing; leave the key out for all")
        if (
            values != "all"
            and (twice := next((value for value in values if values.count(value) > 1), None)) is not None
        ):
            raise ValueError(f"names {twice!r} twice")  # a stratum drawn from twice would give every fault twice
        return values

    @model_validator(mode="before")
    @classmethod
    def _all_ops_that_fit(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("pattern") == "bits":
            return {"ops": tuple(op for op in OPS if op != "random"), **values}
        return values

    @model_validator(mode="after")
    def _fits_its_pattern(self) -> FaultSpec:
        refuse(self._complaints())
        return self

    def _complaints(self) -> Iterator[Complaint]:
        yield from self._wrong_sizes()
        if self.pattern == "bits" and "random" in self.ops:
            yield Complaint(
                "ops", "'random' sets whole words, of which pattern = \"bits\" takes some bits; leave it out"
            )
        if self.adjacent and self.pattern != "bits":
            yield Complaint("adjacent", 'is for pattern = "bits"; elements next to each other are pattern = "burst"')
        if not self.same_bit and self.pattern in (*_ONE_WORD, "sites"):
            yield Complaint("same_bit", f"is for patterns of several words in a tensor, not {self.pattern!r}")
        if self.pattern == "bits" and self.bits != "all" and len(self.bits) < (self.count or 0):
            yield Complaint("bits", f"names {len(self.bits)}, of which {self.count} are to be struck together")
        if self.scope == "inference" and self.where == "weight":
            yield Complaint("scope", "a weight fault lasts for every image; leave scope out")
        if self.images is not None and not self.persistent:
            yield Complaint(
                "images",
                "a fault of one inference has the one image that it is drawn for; leave it out, or set scope"
                ' = "persistent"',
            )

    def _wrong_sizes(self) -> Iterator[Complaint]:
        needed = _SIZES[self.pattern]
        if any(getattr(self, key) is None for key in needed):
            yield Complaint("", f"pattern {self.pattern!r} needs {' and '.join(needed)}")
        for key in ("count", "length", "rows", "columns"):
            if key not in needed and getattr(self, key) is not None:
                owners = ", ".join(repr(kind) for kind, keys in _SIZES.items() if key in keys)
                yield Complaint(key, f"belongs to pattern {owners}, not {self.pattern!r}")

    @property
    def persistent(self) -> bool:
        return self.where == "weight" or self.scope == "persistent"

    @property
    def images_each(self) -> int | None:
        """How many images a persistent fault is run on, if there are as many; None for all, and where it is not decided
        yet."""
        return self.images if isinstance(self.images, int) else None

    @property
    def geometry(self) -> Pattern:
        """How the words of a fault lie in one tensor."""
        if self.pattern == "burst":
            assert self.length is not None
            return BurstPattern(self.length)
        if self.pattern == "tile":
            assert self.rows is not None
            assert self.columns is not None
            return TilePattern(self.rows, self.columns)
        whole: dict[str, Pattern] = {"row": RowPattern(), "column": ColumnPattern()}
        return whole.get(self.pattern, ElementPattern())

    def label(self, op: Op) -> str:
        """A fault model's name, among those of one target and place: "flip", "flip x burst-4", "stuck0, persistent"."""
        name = op if self.pattern == "single" else f"{op} x {self.pattern_name(op)}"
        return f"{name}, persistent" if self.where == "activation" and self.persistent else name

    def pattern_name(self, op: Op) -> str:
        """The pattern with its size, as rows tell it: "single", "bits-3-adjacent", "tile-4x16-any-bit", "sites-2"."""
        if self.pattern in ("bits", "sites"):
            return f"{self.pattern}-{self.count}" + ("-adjacent" if self.adjacent else "")
        return self.geometry.name + ("" if self.same_bit or op == "random" else "-any-bit")
