"""Strikes on their way: what of the golden values at the start of a suffix they have changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.suffix.golden import SuffixGoldens
from testbed.core.arrays import Words32
from testbed.core.outcome import How
from testbed.semantics import as_words


def by_token(values: NDArray, axis: int) -> NDArray:
    """(m, tokens, ...), a view of (m, ...) values with the tokens along ``axis``."""
    if axis == 1:
        return values
    return values.transpose(0, axis, *(other for other in range(1, values.ndim) if other != axis))


class ChangedRows(NamedTuple):
    """One row per strike of a tensor. axis: of the tokens, batch counted; values: (m, ...) without that axis."""

    axis: int
    values: NDArray


@dataclass(frozen=True)
class ChangedWords:
    """Words of a tensor, (m, K) each; only where ``used``."""

    tensor: str
    index: NDArray[np.int64]
    words: Words32
    used: NDArray[np.bool_]


@dataclass(frozen=True)
class SuffixEntry:
    """A set of m injections that enter one suffix. strike, image, slot, token: (m,); token: of ``rows``. whole: (m,
    ...) each."""

    injection: NDArray[np.int64]
    slot: NDArray[np.int64]
    how: How
    token: NDArray[np.int64] | None = None
    rows: Mapping[str, ChangedRows] = field(default_factory=dict)
    words: ChangedWords | None = None
    whole: Mapping[str, NDArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.injection)

    def put(self, name: str, into: NDArray, part: slice, golden: SuffixGoldens) -> None:
        """Writes these strikes' values of a tensor: the golden ones, and what they have changed."""
        if name in self.whole:
            into[:] = self.whole[name][part]
            return
        np.take(golden[name], self.slot[part], axis=0, out=into, mode="clip")  # "raise" would copy once more
        each = np.arange(len(into))
        if name in self.rows and self.token is not None:
            axis, values = self.rows[name]
            by_token(into, axis)[each, self.token[part]] = values[part]
        if self.words is not None and self.words.tensor == name:
            words = self.words
            write_words(into, words.index[part], words.words[part], words.used[part])


def write_words(values: NDArray, index: NDArray[np.int64], words: Words32, used: NDArray[np.bool_]) -> None:
    """Writes words in place. values: (m, ...), contiguous; the others (m, K)."""
    flat = as_words(values.reshape(len(values), -1))
    row, point = np.nonzero(used)
    flat[row, index[row, point]] = words[row, point].astype(flat.dtype)


def read_words(values: NDArray, slot: NDArray[np.int64], index: NDArray[np.int64], used: NDArray[np.bool_]) -> Words32:
    """(m, K) bits of golden values by slot, 0 where none is used. values: (slots, ...)."""
    flat = as_words(values.reshape(len(values), -1))
    words = np.zeros(index.shape, np.uint32)
    row, point = np.nonzero(used)
    words[row, point] = flat[slot[row], index[row, point]]
    return words


class SuffixBatch(NamedTuple):
    """What a suffix is fed at a time. strike: (b,) of its first b rows; how: (b,)."""

    injection: NDArray[np.int64]
    how: NDArray[np.int8]
    feeds: dict[str, NDArray]


def batches(
    entries: Sequence[SuffixEntry], names: Sequence[str], golden: SuffixGoldens, size: int
) -> Iterator[SuffixBatch]:
    """The entries' strikes in full batches; the last one is filled up with golden rows. Feeds are written anew each
    time."""
    feeds = {name: np.empty((size, *golden[name].shape[1:]), golden[name].dtype) for name in names}
    waiting: list[tuple[SuffixEntry, slice]] = []
    count = 0
    for entry in entries:
        start = 0
        while start < len(entry):
            part = slice(start, min(len(entry), start + size - count))
            waiting.append((entry, part))
            count, start = count + part.stop - part.start, part.stop
            if count == size:
                yield _filled(waiting, feeds, golden)
                waiting, count = [], 0
    if waiting:
        yield _filled(waiting, feeds, golden)


def _filled(
    waiting: Sequence[tuple[SuffixEntry, slice]], feeds: dict[str, NDArray], golden: SuffixGoldens
) -> SuffixBatch:
    for name, buffer in feeds.items():
        at = 0
        for entry, part in waiting:
            size = part.stop - part.start
            entry.put(name, buffer[at : at + size], part, golden)
            at += size
        buffer[at:] = golden[name][waiting[0][0].slot[0]]
    injection = np.concatenate([entry.injection[part] for entry, part in waiting])
    how = np.concatenate([np.full(part.stop - part.start, entry.how, np.int8) for entry, part in waiting])
    return SuffixBatch(injection, how, feeds)
