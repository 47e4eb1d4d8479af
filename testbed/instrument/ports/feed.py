"""What the fault ports of a twin are fed, and what they tell back: words of bits, whatever the tensors' formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from testbed.core.arrays import Words32
from testbed.core.errors import UsageError
from testbed.core.site import SiteTable
from testbed.semantics import as_words

SITE, INDEX, VALUE, LIVE = "fault_site", "fault_index", "fault_value", "fault_live"
MASKS = ("fault_and", "fault_or", "fault_xor")
NO_SITE = -1
GATED_REPLACE, XOR, OP = "gated_replace", "xor", "op"
MECHANISMS = (GATED_REPLACE, XOR, OP)

DTYPES: dict[str, np.dtype] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int16": np.dtype(np.int16),
    "uint16": np.dtype(np.uint16),
    "int32": np.dtype(np.int32),
}


def value_input(format_name: str) -> str:
    """Name of the twin's input with the values to write at sites of this format."""
    return VALUE if format_name == "fp32" else f"{VALUE}/{format_name}"


def live_output(format_name: str) -> str:
    """Name of the twin's output with the values that its sites of this format held."""
    return LIVE if format_name == "fp32" else f"{LIVE}/{format_name}"


def formats(table: SiteTable) -> list[str]:
    """Number formats of the table's ports, in order of appearance."""
    return list(dict.fromkeys(table.port_formats.tolist()))


@dataclass(frozen=True)
class PortFeed:
    """One fault of up to K points per batch row, (B, K) each; (B,) is taken as K = 1.

    site: port number, or -1 where a row has fewer points; index: flat, canonical; masks and words: zero-extended
    bits. ``golden``: what the element holds without the fault, which the gated replace is computed from; the other
    mechanisms strike the live value.
    """

    site: NDArray[np.int64]
    index: NDArray[np.int64]
    and_mask: Words32
    or_mask: Words32
    xor_mask: Words32
    golden: Words32

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            object.__setattr__(self, field.name, values if values.ndim == 2 else values[:, None])

    def __len__(self) -> int:
        return len(self.site)

    @property
    def points(self) -> int:
        """K, the most points of a row."""
        return int(self.site.shape[1])

    @classmethod
    def idle(cls, rows: int, points: int = 1) -> PortFeed:
        """Make rows without a fault."""
        none = np.zeros((rows, points), np.uint32)
        return cls(np.full_like(none, NO_SITE, np.int64), np.zeros_like(none, np.int64), ~none, none, none, none)

    @classmethod
    def writing(cls, site: NDArray[np.int64], index: NDArray[np.int64], words: Words32) -> PortFeed:
        """Sets each element to these bits, whatever it held."""
        none = np.zeros(len(site), np.uint32)
        return cls(site, index, none, words, none, none)

    def _check(self, table: SiteTable) -> None:
        injected = self.site != NO_SITE
        index, sites = self.index[injected], self.site[injected]
        sizes = table.port_sizes[sites]
        if len(wrong := np.flatnonzero((index < 0) | (index >= sizes))):
            name = list(table.ports)[sites[wrong[0]]]
            raise UsageError(
                f"site {name} has elements 0 to {sizes[wrong[0]] - 1}; there is no element {index[wrong[0]]}"
            )

    def take(self, rows: NDArray[np.int64]) -> PortFeed:
        """Take some of the rows."""
        return PortFeed(*(getattr(self, field.name)[rows] for field in fields(self)))

    def with_golden(self, golden: Words32) -> PortFeed:
        """The same faults, once it is known what their elements hold without them. golden: (B, K)."""
        return replace(self, golden=golden)

    def at(self, index: NDArray[np.int64]) -> PortFeed:
        """The same faults at other elements of their sites. index: (B, K)."""
        return replace(self, index=index)

    def padded(self, rows: int) -> PortFeed:
        """Pads with idle rows at the end."""
        rest = PortFeed.idle(rows - len(self), self.points)
        return PortFeed(*(np.concatenate([getattr(self, f.name), getattr(rest, f.name)]) for f in fields(self)))

    @property
    def faulty(self) -> Words32:
        """The bits that the struck element will hold, given ``golden``."""
        return ((self.golden & self.and_mask) | self.or_mask) ^ self.xor_mask

    def as_inputs(self, table: SiteTable) -> dict[str, NDArray]:
        """The extra inputs of the table's twin, each (B, K).

        Raises UsageError for an index past a tensor's end, which not every engine checks: some would strike another
        element, or write past the tensor. And for a row with several sites, unless the ports are "op".
        """
        self._check(table)
        if table.mechanism != OP and self.points > 1:
            return self._at_one_site(table)._inputs(table)
        return self._inputs(table)

    def _inputs(self, table: SiteTable) -> dict[str, NDArray]:
        inputs: dict[str, NDArray] = {SITE: self.site, INDEX: self.index}
        if table.mechanism == GATED_REPLACE:
            return inputs | {value_input(f): from_words(self.faulty, f) for f in formats(table)}
        masks = (self.and_mask, self.or_mask, self.xor_mask)
        return inputs | dict(zip(MASKS, masks, strict=True))

    def _at_one_site(self, table: SiteTable) -> PortFeed:
        """The same faults with each row's unused points repeating a used one.

        A port of standard operators writes all points of a row: what is not meant for it, as the value that it found in
        element 0. Repeated points write one value to one element, and a row of one site leaves no port with both.
        """
        injected = self.site != NO_SITE
        a_used = injected.argmax(axis=1)[:, None]
        order = np.where(injected, np.arange(self.points), a_used)
        filled = PortFeed(*(np.take_along_axis(getattr(self, field.name), order, 1) for field in fields(self)))
        if len(mixed := np.flatnonzero((filled.site != filled.site[:, :1]).any(axis=1))):
            names = list(table.ports)
            several = ", ".join(names[port] for port in np.unique(filled.site[mixed[0]]))
            raise UsageError(
                f"a fault at several sites ({several}) in one inference cannot be fed to ports = {table.mechanism!r};"
                f" set engine.ports = {OP!r}"
            )
        own = np.sort(np.where(injected, self.index, -1 - np.arange(self.points)), axis=1)
        if (own[:, 1:] == own[:, :-1]).any():
            raise ValueError("two points of one fault strike the same element: combine their masks")
        return filled


def from_words(words: Words32, format_name: str) -> NDArray:
    """Zero-extended words as values of a format; bits beyond the format's width are dropped."""
    dtype = DTYPES[format_name]
    return words.astype(f"uint{8 * dtype.itemsize}").view(dtype)


def to_words(values: NDArray) -> Words32:
    """Values' bits, zero-extended."""
    return as_words(np.ascontiguousarray(values)).astype(np.uint32)


def numbers(words: Words32, format_names: Iterable[str]) -> NDArray[np.float32]:
    """(n,) the words as numbers, each in its own format, for people: float32 is not exact for large int32."""
    names = np.asarray(list(format_names), object)
    values = np.empty(len(words), np.float32)
    for format_name in dict.fromkeys(names):
        of_format = names == format_name
        values[of_format] = numbers_of_format(words[of_format], format_name)
    return values


def numbers_of_format(words: Words32, format_name: str) -> NDArray[np.float32]:
    """(n,) the words as numbers of one format, for people."""
    with np.errstate(invalid="ignore"):  # a signalling NaN may go quiet; its bits are in the word
        return from_words(words, format_name).astype(np.float32)


def live_words(outputs: Mapping[str, NDArray], table: SiteTable, site: NDArray[np.int64]) -> Words32:
    """(B, K) bits of the live values at each row's struck elements; 0 where there is none. site: (B, K) port numbers."""
    words, injected = np.zeros(site.shape, np.uint32), site != NO_SITE
    for format_name in formats(table):
        of_format = injected & (table.port_formats == format_name)[site]  # NO_SITE indexes the last
        words[of_format] = to_words(outputs[live_output(format_name)][: len(site)])[of_format]
    return words


def feed_sites(table: SiteTable, sites: Iterable[str]) -> NDArray[np.int64]:
    """Port numbers of site names."""
    ports = table.ports
    return np.array([ports[name] for name in sites], np.int64)
