"""Exact outputs of faults inside an attention module, from the rows that they can change and nothing else.

A fault in q, the scores or the maps (softmax) changes one token's row from there on; one in v a column of one head's
part of the context, one in k a column of one head's scores, and then every row in which that element came out
different. Rows are compared with the golden ones, bit for bit, where they enter the context: those that are equal again
end there, the others are projected together, whatever their images. All numbers are the engine's own (see `StageEngines`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.attention.golden import ImageGolden
from testbed.campaign.evaluate.attention.graphs import AttentionSites
from testbed.campaign.evaluate.attention.stage_engines import StageEngines
from testbed.core.arrays import Float32s, Int64s
from testbed.semantics import as_words

USES: Mapping[str, tuple[str, ...]] = {
    "q": ("scores.rows", "softmax.rows", "heads.rows", "proj.rows"),
    "k": ("scores.columns", "softmax.rows", "heads.rows", "proj.rows"),
    "v": ("heads.columns", "proj.rows"),
    "scores": ("softmax.rows", "heads.rows", "proj.rows"),
    "softmax": ("heads.rows", "proj.rows"),
    "context": ("proj.rows",),
    "proj": (),
}
"""Which uses of stages a fault at a site is followed through."""
_COLUMNS = ("k", "v")


@dataclass(frozen=True)
class FaultyElements:
    """Single elements of one kind of site. image, index (n,): flat, canonical; words (n,): what the element holds now."""

    kind: str
    image: Int64s
    index: Int64s
    words: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Int64s) -> FaultyElements:
        return FaultyElements(self.kind, self.image[rows], self.index[rows], self.words[rows])


@dataclass(frozen=True)
class ContextRows:
    """Rows of the context whose bits a fault changed. strike, token (m,); values (m, H d)."""

    injection: Int64s
    token: Int64s
    values: Float32s


@dataclass(frozen=True)
class _Group:
    """Strikes on one head of one image. members, row, column (n,)."""

    golden: ImageGolden
    head: int
    members: Int64s
    row: Int64s
    column: Int64s


class RowPath:
    def __init__(self, sites: AttentionSites, stages: StageEngines) -> None:
        self.sites, self.stages = sites, stages

    def outputs(
        self,
        faulty: FaultyElements,
        goldens: Mapping[int, ImageGolden],
        golden: Float32s,
        columns: Float32s | None = None,
    ) -> tuple[Float32s, NDArray[np.bool_]]:
        """Exact outputs (n, N, D), and where nothing was projected since every row of the context was golden (n,).

        golden: (images, N, D). columns: of k and v, what `columns` gave, if it was asked before.
        """
        outputs = golden[faulty.image]
        if faulty.kind == "proj":
            as_words(outputs.reshape(len(faulty), -1))[np.arange(len(faulty)), faulty.index] = faulty.words
            return outputs, np.zeros(len(faulty), bool)
        rows = self._context_rows(faulty, goldens, columns)
        outputs[rows.injection, rows.token] = self._projected(rows)
        unchanged = np.ones(len(faulty), bool)
        unchanged[rows.injection] = False
        return outputs, unchanged

    def rows(
        self, faulty: FaultyElements, goldens: Mapping[int, ImageGolden], columns: Float32s, tokens: NDArray[np.bool_]
    ) -> tuple[Int64s, Int64s, Float32s]:
        """Exact rows of the outputs of strikes on k or v: (strike, token, rows (m, D)) of those of ``tokens`` (n, N) that
        are not golden where they enter the projection. columns: what `columns` gave."""
        rows = self._context_rows(faulty, goldens, columns, tokens)
        return rows.injection, rows.token, self._projected(rows)

    def _projected(self, rows: ContextRows) -> Float32s:
        """(m, D)."""
        if not len(rows.injection):
            return np.empty((0, self.sites.site["proj"].shape[1]), np.float32)
        return self.stages.project(rows.values)

    def columns(self, faulty: FaultyElements, goldens: Mapping[int, ImageGolden]) -> Float32s:
        """(n, N): of k, the struck key's column of the scores; of v, the struck column of its head's context."""
        columns = np.empty((len(faulty), self.sites.tokens), np.float32)
        for group in self._groups(faulty, goldens):
            golden, head = group.golden, group.head
            words = faulty.words[group.members]
            if faulty.kind == "k":
                keys = _with(golden["k"][head][group.row], group.column, words)
                columns[group.members] = self.stages.score_columns(golden["q"][head], keys).T
            else:
                values = _with(np.ascontiguousarray(golden["v"][head].T[group.column]), group.row, words)
                columns[group.members] = self.stages.head_columns(golden["softmax"][head], values).T
        return columns

    def golden_columns(self, faulty: FaultyElements, goldens: Mapping[int, ImageGolden]) -> Float32s:
        """(n, N): what `columns` are without the fault."""
        columns = np.empty((len(faulty), self.sites.tokens), np.float32)
        for group in self._groups(faulty, goldens):
            if faulty.kind == "k":
                columns[group.members] = group.golden["scores"][group.head].T[group.row]
            else:
                columns[group.members] = group.golden["context"].T[group.head * self.sites.head_width + group.column]
        return columns

    def _context_rows(
        self,
        faulty: FaultyElements,
        goldens: Mapping[int, ImageGolden],
        columns: Float32s | None,
        tokens: NDArray[np.bool_] | None = None,
    ) -> ContextRows:
        if faulty.kind == "context":
            return self._of_context(faulty, goldens)
        if faulty.kind not in _COLUMNS:
            return _joined([self._of_rows(faulty, group) for group in self._groups(faulty, goldens)])
        if columns is None:
            columns = self.columns(faulty, goldens)
        changed = as_words(columns) != as_words(self.golden_columns(faulty, goldens))
        if tokens is not None:
            changed &= tokens
        return _joined([self._of_columns(faulty, group, columns, changed) for group in self._groups(faulty, goldens)])

    def _of_context(self, faulty: FaultyElements, goldens: Mapping[int, ImageGolden]) -> ContextRows:
        token, column = np.divmod(faulty.index, self.sites.site["context"].shape[1])
        before = np.stack([goldens[image]["context"][t] for image, t in zip(faulty.image.tolist(), token, strict=True)])
        return _changed(np.arange(len(faulty)), token, before, _with(before.copy(), column, faulty.words))

    def _of_rows(self, faulty: FaultyElements, group: _Group) -> ContextRows:
        golden, head, words = group.golden, group.head, faulty.words[group.members]
        rows = _with(golden[faulty.kind][head][group.row], group.column, words)
        if faulty.kind == "q":
            rows = self.stages.score_rows(rows, golden["k"][head])
        if faulty.kind in ("q", "scores"):
            rows = self.stages.softmax_rows(rows)
        return self._of_maps(group, group.members, group.row, rows)

    def _of_columns(
        self, faulty: FaultyElements, group: _Group, columns: Float32s, changed: NDArray[np.bool_]
    ) -> ContextRows:
        """Context rows that changed columns give. columns, changed: (n, N) of all strikes."""
        member, token = np.nonzero(changed[group.members])
        injection = group.members[member]
        words = as_words(columns[injection, token])
        if faulty.kind == "v":
            context_column = group.head * self.sites.head_width + group.column
            return ContextRows(injection, token, _with(group.golden["context"][token], context_column[member], words))
        scores = _with(group.golden["scores"][group.head][token], group.row[member], words)
        return self._of_maps(group, injection, token, self.stages.softmax_rows(scores) if len(scores) else scores)

    def _of_maps(self, group: _Group, injection: Int64s, token: Int64s, maps: Float32s) -> ContextRows:
        """Context rows that changed attention maps give. maps (m, N): rows of the group's head, by token."""
        before = group.golden["context"][token]
        after = before.copy()
        if len(maps):
            part = slice(group.head * self.sites.head_width, (group.head + 1) * self.sites.head_width)
            after[:, part] = self.stages.head_rows(maps, group.golden["v"][group.head])
        return _changed(injection, token, before, after)

    def _groups(self, faulty: FaultyElements, goldens: Mapping[int, ImageGolden]) -> Iterator[_Group]:
        head, row, column = np.unravel_index(faulty.index, self.sites.shape(faulty.kind))
        key = faulty.image * self.sites.heads + head
        order = np.argsort(key, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
            first = members[0]
            yield _Group(goldens[int(faulty.image[first])], int(head[first]), members, row[members], column[members])


def _with(rows: Float32s, column: Int64s, words: NDArray[np.uint32]) -> Float32s:
    """The rows (n, ...), a copy of one's own, with one element of each set to a word."""
    as_words(rows)[np.arange(len(rows)), column] = words
    return rows


def _changed(injection: Int64s, token: Int64s, before: Float32s, after: Float32s) -> ContextRows:
    changed = (as_words(before) != as_words(after)).any(axis=1)
    return ContextRows(injection[changed], token[changed], after[changed])


def _joined(parts: list[ContextRows]) -> ContextRows:
    return ContextRows(
        np.concatenate([part.injection for part in parts]),
        np.concatenate([part.token for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
