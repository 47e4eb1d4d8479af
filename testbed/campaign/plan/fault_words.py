"""The words that one drawn fault strikes, and what is done to each: pattern and operation put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from testbed.core.fault import Masks, Op, masks_for, masks_for_bits
from testbed.core.formats import Format, format_named
from testbed.core.site import Site


@dataclass(frozen=True, eq=False)
class FaultWords:
    """(k,) each, no word twice. ``sites``: names, activations in the order that the engine computes them."""

    sites: Sequence[str]
    index: NDArray[np.int64]
    masks: NDArray[np.uint32]  # (k, 3): and, or, xor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def first(self) -> tuple[int, Masks]:
        return int(self.index[0]), Masks(*map(int, self.masks[0]))


def words_of_bits(site: Site, element: int, op: Op, bits: Sequence[int]) -> FaultWords:
    """Several bits of one word."""
    masks = np.array([masks_for_bits(op, site.format, bits)], np.uint32)
    return FaultWords([site.name], np.array([element], np.int64), masks)


def words_of_elements(
    site: Site, elements: Sequence[int], op: Op, bits: Sequence[int], rng: np.random.Generator
) -> FaultWords:
    """Several words of one tensor, each in a bit that is drawn from ``bits``, or set to a word of its own."""
    index = np.asarray(elements, np.int64)
    return FaultWords([site.name] * len(index), index, _masks(site.format, op, bits, len(index), rng))


def words_at_sites(
    words: Sequence[tuple[Site, int]], op: Op, bits: Literal["all"] | Sequence[int], rng: np.random.Generator
) -> FaultWords:
    """One word at each of several sites, in the table's order."""
    masks = [_masks(site.format, op, range(site.format.bits) if bits == "all" else bits, 1, rng) for site, _ in words]
    return FaultWords(
        [site.name for site, _ in words], np.array([index for _, index in words], np.int64), np.concatenate(masks)
    )


def _masks(fmt: Format, op: Op, bits: Sequence[int], words: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    """(words, 3). A draw is made only where there is a choice."""
    if op == "random":
        masks = np.zeros((words, 3), np.uint32)
        masks[:, 1] = rng.integers(1 << fmt.bits, size=words, dtype=np.uint64)
        return masks
    if len(bits) == 1:
        return np.repeat(_mask_table(fmt.name, op)[[bits[0]]], words, axis=0)
    return _mask_table(fmt.name, op)[np.asarray(bits)[rng.integers(len(bits), size=words)]]


@cache
def _mask_table(format_name: str, op: Op) -> NDArray[np.uint32]:
    """(bits, 3): the masks for each bit of a format."""
    fmt = format_named(format_name)
    return np.array([masks_for(op, fmt, bit) for bit in range(fmt.bits)], np.uint32)
