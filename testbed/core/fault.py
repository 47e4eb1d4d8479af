"""A fault is a frozen record: where it strikes, and three masks that say what it does to the value's bits.

``v' = ((v & and) | or) ^ xor`` covers bit flips (one or many), stuck-at-0/1 and set-to-value in every number format.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from testbed.core.errors import UsageError
from testbed.core.formats import Format
from testbed.core.words.nearest import unknown

if TYPE_CHECKING:
    from testbed.core.site import Where

DrawnOp = Literal["flip", "stuck0", "stuck1", "random"]
Op = Literal[DrawnOp, "identity"]
Scope = Literal["inference", "persistent"]
OPS: tuple[DrawnOp, ...] = get_args(DrawnOp)
"""What campaigns draw; "identity" is the gates'."""


class Masks(NamedTuple):
    """Unsigned words of the struck value's width."""

    and_mask: int
    or_mask: int
    xor_mask: int


def masks_for(op: Op, fmt: Format, bit: int | None = None, value: int = 0) -> Masks:
    """The masks of a fault model.

    ``flip``, ``stuck0`` and ``stuck1`` need ``bit``; ``random`` sets the word to the bit pattern ``value``;
    ``identity`` arms a port without changing anything (the zero-fault gate). Raises UsageError for anything else.
    """
    full = (1 << fmt.bits) - 1
    if op == "identity":
        return Masks(full, 0, 0)
    if op == "random":
        return Masks(0, value & full, 0)
    if op not in OPS:
        raise UsageError(unknown("fault operation", op, OPS))
    if bit is None or not 0 <= bit < fmt.bits:
        raise UsageError(f"{op} needs a bit from 0 to {fmt.bits - 1} of {fmt.name}, not {bit}")
    mask = 1 << bit
    if op == "flip":
        return Masks(full, 0, mask)
    return Masks(full ^ mask, 0, 0) if op == "stuck0" else Masks(full, mask, 0)


def masks_for_bits(op: Op, fmt: Format, bits: Iterable[int]) -> Masks:
    """``flip``, ``stuck0`` or ``stuck1`` of several bits of one word. Raises UsageError for a bit the format lacks."""
    return reduce(then, (masks_for(op, fmt, bit) for bit in bits), masks_for("identity", fmt))


def then(first: Masks, second: Masks) -> Masks:
    """The one fault that does to every word what ``first`` and then ``second`` would."""
    of_zeros = ((first.or_mask ^ first.xor_mask) & second.and_mask | second.or_mask) ^ second.xor_mask
    of_ones = (((first.and_mask | first.or_mask) ^ first.xor_mask) & second.and_mask | second.or_mask) ^ second.xor_mask
    follows, always = of_zeros ^ of_ones, of_zeros & of_ones
    return Masks(follows, always, of_zeros & ~always)


_ODD_SCOPE: dict[Where, Scope] = {"activation": "persistent", "weight": "inference"}


class FaultModel(NamedTuple):
    """What no rate mixes."""

    target: str
    where: Where
    op: Op
    pattern: str
    scope: Scope

    @property
    def label(self) -> str:
        """ "flip"; of several words "flip x burst-4"; and what is not usual for its place: "stuck0, persistent"."""
        several = "" if self.pattern == "single" else f" x {self.pattern}"
        return f"{self.op}{several}" + (f", {self.scope}" if self.scope == _ODD_SCOPE[self.where] else "")

    def to_json(self) -> dict[str, str]:
        """The model as a record. op: the label, by which readers tell fault models of one target and place apart."""
        return {**self._asdict(), "op": self.label}
