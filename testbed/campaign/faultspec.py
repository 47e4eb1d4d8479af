"""One [[faults]] section of a spec, in three kinds of choice that do not know each other.

selector     target, where, sites, scope; and pattern with its size: which words are struck together
format       bits: which of a word's bits; what they mean is the struck tensor's own format
error model  ops: what happens to them
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from testbed.campaign.strict import AtMost, Complaint, Count, Strict, refuse
from testbed.core.fault import OPS, Scope
from testbed.core.patterns import Burst, Column, Element, Pattern, Row, Tile
from testbed.core.site import Where

Target = Literal["model", "attention"]
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


def _bits_of(asked: Any) -> Any:
    """The numbers in "20-30" or "0-3, 31"; anything else as it is."""
    if not isinstance(asked, str) or asked == "all":
        return asked
    ranges = [_RANGE.fullmatch(part) for part in asked.split(",")]
    found: list[int] = []
    for part in ranges:
        low, high = (int(part[1]), int(part[2] or part[1])) if part else (1, 0)
        if low > high:
            raise ValueError(
                f'{asked!r} are no bits; write a list, such as [0, 1, 30], a range, such as "20-30", or "all"'
            )
        if high > _TOP_BIT:
            raise ValueError(f"{asked!r}: there are bits 0 to {_TOP_BIT}")
        found += range(low, high + 1)
    return found


class FaultSpec(Strict):
    """Faults of one place: which target and tensors, what happens to which bits, how many per stratum.

    A stratum is site x op x bit (x tier for activations). A weight fault lasts for every named image; an activation
    fault lasts one inference of one image, or, with ``scope`` "persistent", strikes every image, and has no tier. One that
    several sections name is drawn from once, as often as the one asks that wants most (`testbed.campaign.sections`).

    ``bits``: a list, or text with ranges, "20-30" or "0-3, 31"; "all" unless said.

    ``pattern``: the words that one fault strikes.
        single          one word
        bits            ``count`` bits of one word, any or, if ``adjacent``, next to each other
        burst           ``length`` elements next to each other in the tensor's flat order
        row, column     of a matrix: an activation's last two axes, a weight's outputs by inputs
        tile            ``rows`` x ``columns`` of a matrix, on a grid of such tiles, cut at its edges
        sites           ``count`` single faults at different sites, in one inference; several activations need
                        engine.ports = "op"
    ``same_bit``: whether all words of a burst, row, column or tile are struck in the same bit, which is the stratum's,
    or each in one of its own. Random words are always of their own, and so are the bits of several sites.
    """

    target: Target
    where: Where
    sites: tuple[str, ...] = ("*",)
    ops: tuple[Literal["flip", "stuck0", "stuck1", "random"], ...] = OPS  # type: ignore[assignment]
    bits: Annotated[
        Literal["all"] | tuple[Annotated[int, Field(ge=0, le=_TOP_BIT)], ...], BeforeValidator(_bits_of)
    ] = "all"
    pattern: PatternKind = "single"
    count: Annotated[int, Field(ge=2), _WORDS] | None = None
    length: Annotated[int, Field(ge=2), _WORDS] | None = None
    rows: Count | None = None
    columns: Count | None = None
    adjacent: bool = False
    same_bit: bool = True
    scope: Scope | None = None
    per_stratum: Count = 1

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
    def geometry(self) -> Pattern:
        """How the words of a fault lie in one tensor."""
        if self.pattern == "burst":
            assert self.length is not None
            return Burst(self.length)
        if self.pattern == "tile":
            assert self.rows is not None
            assert self.columns is not None
            return Tile(self.rows, self.columns)
        whole: dict[str, Pattern] = {"row": Row(), "column": Column()}
        return whole.get(self.pattern, Element())

    def label(self, op: str) -> str:
        """A fault model's name, among those of one target and place: "flip", "flip x burst-4", "stuck0, persistent"."""
        name = op if self.pattern == "single" else f"{op} x {self.pattern_name(op)}"
        return f"{name}, persistent" if self.where == "activation" and self.persistent else name

    def pattern_name(self, op: str) -> str:
        """The pattern with its size, as rows tell it: "single", "bits-3-adjacent", "tile-4x16-any-bit", "sites-2"."""
        if self.pattern in ("bits", "sites"):
            return f"{self.pattern}-{self.count}" + ("-adjacent" if self.adjacent else "")
        return self.geometry.name + ("" if self.same_bit or op == "random" else "-any-bit")
