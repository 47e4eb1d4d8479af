"""Strata by golden value: what a flip of an exponent bit does follows from how large the value was.

Of a float whose top exponent bit is 0, which is any below 2 in size, a flip of that bit multiplies by 2^128 (fp32, bf16; 2^16
in fp16): from 1 on to infinity or NaN, from 0.5 on to what overflows in the next product, below that to large numbers. Of 2
or more it leaves next to nothing. With the other exponent bits it is the other way round: they are 0 in values of 2 to 4,
which a flip multiplies by up to 2^64 (2^8), and mostly 1 below 2, where it leaves a smaller value. So the classes of one
stratum fail at rates far apart, and drawn from apart they need fewer faults.

A class is a set of (image, element) pairs like any other: estimates stay unbiased, whatever the golden values are taken from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.plan.draw import Stratum
from testbed.campaign.spec.faults import FaultSpec
from testbed.core.arrays import Int64s
from testbed.core.errors import StaleArtefact
from testbed.core.site import Site, SiteTable
from testbed.golden.arrays import read_array

NAMES = ("below 0.5", "0.5 to 1", "1 to 2", "2 and more")
_STRATA: dict[
    str, dict[str, tuple[int, ...]]
] = {  # the strata of each class of bits, and the classes of values in each
    "exponent_top": {name: (number,) for number, name in enumerate(NAMES)},
    "exponent": {"below 2": (0, 1, 2), NAMES[3]: (3,)},
}
_EDGES = np.array([0.5, 1, 2], np.float32)
_PER_BYTE = 4
_SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)
_UNPACKED = (np.arange(256, dtype=np.uint8)[:, None] >> _SHIFTS) & np.uint8(3)  # the four classes in each byte


def classes_of(values: NDArray) -> NDArray[np.uint8]:
    """The class of each value, by number. NaN is of the last."""
    return np.searchsorted(_EDGES, np.abs(values.astype(np.float32)), side="right").astype(np.uint8)


def packed_classes(values: NDArray) -> NDArray[np.uint8]:
    """(n, ceil(elements / 4)) classes of (n, elements) values, four to a byte."""
    classes = classes_of(values)
    padded = np.pad(classes, ((0, 0), (0, -classes.shape[1] % _PER_BYTE))).reshape(len(classes), -1, _PER_BYTE)
    return np.bitwise_or.reduce(padded << _SHIFTS, axis=2)


def unpacked_classes(row: NDArray[np.uint8], elements: int) -> NDArray[np.uint8]:
    """(elements,) classes of one image's bytes."""
    return _UNPACKED[row].reshape(-1)[:elements]


def is_classed(site: Site) -> bool:
    """Whether a site's values are floats of activations, whose top exponent bit says what a flip does."""
    bits = range(site.format.bits)
    return site.where == "activation" and any(site.format.bit_class(bit) == "exponent_top" for bit in bits)


def classed_sites(table: SiteTable, sections: Sequence[FaultSpec]) -> list[Site]:
    """Sites that any of the sections has single faults in whose values have classes, in the table's order."""
    single = [
        section.sites
        for section in sections
        if (section.target, section.where, section.pattern) == (table.target, "activation", "single")
        and not section.persistent
    ]
    return [site for site in table.select_any("activation", single) if is_classed(site)]


@dataclass(frozen=True, eq=False)
class ValueClasses:
    """Which class the golden values of one target are in. packed: (images, bytes) of all sites, one after the other;
    counts: (images, sites, classes) values in each."""

    sites: tuple[Site, ...]
    image_ids: tuple[str, ...]
    packed: NDArray[np.uint8]
    counts: NDArray[np.int32]

    @classmethod
    def read(cls, packed: Path, counts: Path, sites: Sequence[Site], image_ids: Sequence[str]) -> ValueClasses:
        """Memory-mapped. Raises StaleArtefact for files that are damaged, or of other sites or images."""
        values = cls(tuple(sites), tuple(image_ids), read_array(packed), np.array(read_array(counts)))
        shapes = (len(image_ids), int(values._starts[-1])), (len(image_ids), len(sites), len(NAMES))
        sizes = np.array([site.elements for site in sites])
        if (values.packed.shape, values.counts.shape) != shapes or (values.counts.sum(-1) != sizes).any():
            raise StaleArtefact(
                f"{packed} is not of this campaign's sites and images; rerun with `testbed campaign run SPEC --redo plan`"
            )
        return values

    @cached_property
    def _starts(self) -> Int64s:
        """(sites + 1,) first byte of each site."""
        return np.cumsum([0, *(bytes_of(site) for site in self.sites)], dtype=np.int64)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {site.name: number for number, site in enumerate(self.sites)}

    @cached_property
    def _row(self) -> dict[str, int]:
        return {image: row for row, image in enumerate(self.image_ids)}

    def element(self, site: int, image: int, classes: tuple[int, ...], rank: int) -> int:
        """The element of one site and image that ``rank`` others in any of the classes come before."""
        row = np.asarray(self.packed[image, self._starts[site] : self._starts[site + 1]])
        ends = np.cumsum(_per_byte(classes)[row])  # what pads the last byte comes after all elements
        byte = int(np.searchsorted(ends, rank, side="right"))
        in_byte = np.flatnonzero(np.isin(_UNPACKED[row[byte]], classes))
        return byte * _PER_BYTE + int(in_byte[rank - int(ends[byte]) + len(in_byte)])

    def split(self, stratum: Stratum) -> Iterator[Stratum]:
        """The stratum in its classes, those without a fault left out; the stratum itself where values do not tell."""
        strata = _STRATA.get(stratum.site.format.bit_class(stratum.bit) or "", {})
        if stratum.pattern != "single" or stratum.persistent or not strata or stratum.op == "random":
            yield stratum
            return
        if (site := self._number.get(stratum.site.name)) is None:
            yield stratum
            return
        rows = np.array([self._row[image] for image in stratum.images])
        for name, classes in strata.items():
            counts = self.counts[rows, site][:, list(classes)].sum(1, dtype=np.int64)
            if counts.any():
                yield replace(
                    stratum, within=_OfClasses(f"{stratum.site.kind} {name}", self, site, classes, rows, counts)
                )


@dataclass(frozen=True, eq=False)
class _OfClasses:
    """The members of a stratum in some classes: see `testbed.campaign.plan.draw.FaultSubset`. counts: (images,)."""

    name: str
    values: ValueClasses
    site: int
    classes: tuple[int, ...]
    rows: Int64s
    counts: Int64s

    @cached_property
    def _ends(self) -> Int64s:
        return np.cumsum(self.counts)

    @property
    def size(self) -> int:
        return int(self._ends[-1])

    def member(self, chosen: int) -> tuple[int, int]:
        image = int(np.searchsorted(self._ends, chosen, side="right"))
        rank = chosen - int(self._ends[image] - self.counts[image])
        return image, self.values.element(self.site, int(self.rows[image]), self.classes, rank)


@cache
def _per_byte(classes: tuple[int, ...]) -> NDArray[np.int64]:
    """(256,) values in these classes in each byte."""
    return np.isin(_UNPACKED, classes).sum(1, dtype=np.int64)


def bytes_of(site: Site) -> int:
    """Bytes that one image's classes take."""
    return -(-site.elements // _PER_BYTE)


def split_strata(strata: Iterator[Stratum], values: Mapping[str, ValueClasses] | None) -> Iterator[Stratum]:
    """Strata in the classes of their targets' golden values, as they are where there are none."""
    for stratum in strata:
        classes = None if values is None else values.get(stratum.target)
        yield from [stratum] if classes is None else classes.split(stratum)
