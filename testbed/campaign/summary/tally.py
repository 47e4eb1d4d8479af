"""A tally of ``results.parquet``, read once, in pieces: how often each combination was seen, which is all that the
summary needs.

Memory is bounded by strata, sites and images, not by rows: faults that are alike in stratum, struck tensor, bit and
outcomes are counted together. A fault's rows lie together in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from testbed.campaign.results.reader import PLAN_TABLE, RESULT_TABLE
from testbed.core.arrays import Int64s
from testbed.core.fault import Op, Scope
from testbed.core.outcome import CHECK_MEASURES, DUES, HOWS, MEASURES, NOT_OUTSIDE, OUTCOMES, Outcome
from testbed.core.site import Where

_NOT_OUTSIDE = [OUTCOMES.index(outcome) for outcome in NOT_OUTSIDE]
_SDC1, _DETECTED = OUTCOMES.index(Outcome.SDC1), OUTCOMES.index(Outcome.DETECTED)
_NO_OUTPUT = [1 + DUES.index(due) for due in ("crash", "hang")]
_NUMBERS: dict[str, dict[str | None, int]] = {
    "outcome": {name: number for number, name in enumerate(OUTCOMES)},
    "evaluation": {name: number for number, name in enumerate(HOWS)},
    "due": {name: number for number, name in enumerate((None, *DUES))},
}
_SEVERAL = "sites-"  # how patterns at several sites are named
_NONE = {"block": -1, "bit": -1, "recovered": -1, "top1_golden": -2, "top1_faulty": -2}
ROWS_AT_ONCE = 1 << 16
_LIMIT = 1 << 62


class Profile(NamedTuple):
    """What faults of one kind have in common, besides their stratum. Of several struck words it is the first's."""

    target: str
    where: Where
    op: Op
    pattern: str
    scope: Scope
    site: str
    kind: str
    block: int | None
    bit: int | None
    bit_class: str

    def of_several(self) -> Profile:
        """The profile of faults at several sites, which are of none of them: their first one is no site to tell rates
        by."""
        return self._replace(site="several", kind="several", block=None, bit=None, bit_class="word")


_TEXTS = [name for name in Profile._fields if name not in ("block", "bit")]
_OF_ROWS = ("outcome", "nonfinite", "evaluation", "due")
_COLUMNS = ["fault_id", "stratum", *Profile._fields, "tier", *_OF_ROWS]
_OF_CHECKS = ["mismatches", "top1_golden", "top1_faulty", "recovered"]
CHECKED = ("sdc1", "outside", "inside", "recovered")
"""What is asked of an engine's checks: how many of the outputs of another top-1, outside the tolerance and inside it they
saw; and, of the rows they saw and that were run again, how many recovered."""


class KeyCounts:
    """How often each key was seen. Keys are rows of integers, 0 or more."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._keys: list[Int64s] = [np.zeros((0, len(names)), np.int64)]
        self._counts: list[Int64s] = [np.zeros(0, np.int64)]
        self._pending, self._settled = 0, 0

    def add(self, *columns: NDArray) -> None:
        """One element per occurrence, a column per name."""
        keys = np.stack([np.asarray(column, np.int64) for column in columns], axis=1)
        keys, counts = _distinct(keys, np.ones(len(keys), np.int64))
        self._keys.append(keys)
        self._counts.append(counts)
        self._pending += len(keys)
        if self._pending > max(ROWS_AT_ONCE, self._settled):
            self._settle()

    def _settle(self) -> None:
        keys, counts = _distinct(np.concatenate(self._keys), np.concatenate(self._counts))
        self._keys, self._counts = [keys], [counts]
        self._pending, self._settled = 0, len(keys)

    def table(self) -> dict[str, Int64s]:
        """A column per name, and ``count``; keys ascend."""
        if self._pending:
            self._settle()
        return {**dict(zip(self.names, self._keys[0].T, strict=True)), "count": self._counts[0]}


def _distinct(keys: Int64s, counts: Int64s) -> tuple[Int64s, Int64s]:
    """(distinct keys, their counts added up)."""
    if not len(keys):
        return keys, counts
    code, size = np.zeros(len(keys), np.int64), 1
    for column in keys.T:  # digits of one number, numbered anew when it grows too long
        width = int(column.max()) + 1
        if size > _LIMIT // width:
            _, code = np.unique(code, return_inverse=True)
            size = int(code.max()) + 1
        code, size = code * width + column, size * width
    _, first, label = np.unique(code, return_index=True, return_inverse=True)
    return keys[first], np.bincount(label, counts).astype(np.int64)


class Tally:
    """The counts of all rows. profile: position in ``profiles``; outcome, evaluation: as in `OUTCOMES` and `HOWS`.

    checks: of an engine that checks itself, with what its checks saw.
    """

    def __init__(self, checks: bool = False) -> None:
        self.rows, self._checks = 0, checks
        measures = (*MEASURES, *CHECK_MEASURES) if checks else MEASURES
        self.outcomes = KeyCounts(
            "profile", "tier", *_OF_ROWS
        )  # of rows; due: 0 where there is none, else as in (None, *DUES)
        # Of clusters, the rows of one fault: how many, how many with the event; and their parts in each tier.
        self.faults = {m: KeyCounts("stratum", "profile", "cluster_rows", "events") for m in measures}
        self.tiers = {m: KeyCounts("stratum", "profile", "tier", "cluster_rows", "rows", "events") for m in measures}
        # Of the rows of one fault that a question about checks is of: how many, how many of them with the event.
        self.checked = {q: KeyCounts("stratum", "profile", "cluster_rows", "rows", "events") for q in CHECKED if checks}
        self._known: dict[tuple[int, ...], int] = {}
        self._words: dict[str, dict[str | None, int]] = {name: {} for name in _TEXTS}

    @classmethod
    def of(cls, results: Path, checks: bool = False) -> Tally:
        tally = cls(checks)
        for rows in _whole_faults(_chunks(results, tally._columns, tally._numbered)):
            tally._add(rows)
        return tally

    @property
    def _columns(self) -> list[str]:
        return [*_COLUMNS, *_OF_CHECKS] if self._checks else _COLUMNS

    def _numbered(self, batch: pa.RecordBatch) -> KeyColumns:
        """The batch's columns as integers."""
        rows: KeyColumns = {}
        for name in self._columns:
            column = batch.column(name)
            if name in _TEXTS:
                rows[name] = _coded(column, self._words[name])
            elif name in _NUMBERS:
                rows[name] = _coded(column, dict(_NUMBERS[name]))
            else:
                rows[name] = pc.fill_null(column.cast(pa.int64()), _NONE.get(name, 0)).to_numpy()
        return rows

    def _add(self, rows: KeyColumns) -> None:
        """Adds rows of whole faults."""
        rows = _by_tier(rows)
        n = len(rows["fault_id"])
        self.rows += n
        profile = self._profile(rows)
        self.outcomes.add(profile, rows["tier"], *(rows[name] for name in _OF_ROWS))
        fault, cell = _starts(rows["fault_id"]), _starts(rows["fault_id"], rows["tier"])
        fault_rows, cell_rows = np.diff(fault, append=n), np.diff(cell, append=n)
        stratum, tier, cluster_rows = rows["stratum"], rows["tier"], np.repeat(fault_rows, fault_rows)
        seen = {
            "sdc1": rows["outcome"] == _SDC1,
            "outside": ~np.isin(rows["outcome"], _NOT_OUTSIDE),
            "nonfinite": rows["nonfinite"],
            **({"detected": rows["outcome"] == _DETECTED} if self._checks else {}),
        }
        for measure, event in seen.items():
            faulty = np.add.reduceat(event.astype(np.int64), fault)
            self.faults[measure].add(stratum[fault], profile[fault], fault_rows, faulty)
            faulty = np.add.reduceat(event.astype(np.int64), cell)
            cells = stratum[cell], profile[cell], tier[cell], cluster_rows[cell]
            self.tiers[measure].add(*cells, cell_rows, faulty)
        for question, counts in self.checked.items():
            asked, event = _asked(question, rows)
            asked_rows, events = (np.add.reduceat(which.astype(np.int64), fault) for which in (asked, asked & event))
            some = asked_rows > 0
            of_fault = stratum[fault], profile[fault], fault_rows, asked_rows, events
            counts.add(*(column[some] for column in of_fault))

    def _profile(self, rows: KeyColumns) -> Int64s:
        """(rows,) number of each row's profile."""
        columns = [rows[name] for name in Profile._fields]
        start = _starts(*columns)
        keys = zip(*(column[start].tolist() for column in columns), strict=True)
        numbers = [self._known.setdefault(key, len(self._known)) for key in keys]
        return np.repeat(np.array(numbers, np.int64), np.diff(start, append=len(columns[0])))

    @property
    def profiles(self) -> list[Profile]:
        names = {name: list(words) for name, words in self._words.items()}

        def value_of(name: str, number: int) -> str | int | None:
            if name in names:
                return names[name][number]
            return None if number < 0 else number

        profiles = (Profile(*map(value_of, Profile._fields, key)) for key in self._known)  # type: ignore[arg-type]
        return [profile.of_several() if profile.pattern.startswith(_SEVERAL) else profile for profile in profiles]


KeyColumns = dict[str, Int64s]


def _asked(question: str, rows: KeyColumns) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(which rows a question of `CHECKED` is about, which have its event); without those that have no output."""
    detected = rows["outcome"] == _DETECTED
    if question == "recovered":
        return rows["recovered"] != _NONE["recovered"], rows["recovered"] == 1
    output = ~np.isin(rows["due"], _NO_OUTPUT)
    if question == "sdc1":
        return output & (rows["top1_faulty"] != rows["top1_golden"]), detected
    outside = rows["mismatches"] > 0
    return output & (outside if question == "outside" else ~outside), detected


def _coded(column: pa.DictionaryArray, numbers: dict[str | None, int]) -> Int64s:
    """Text as numbers, nulls too; new words get the next number."""
    names = [*column.dictionary.to_pylist(), None]
    codes = pc.fill_null(column.indices, len(names) - 1).to_numpy()
    used = np.unique(codes)
    new_codes = np.zeros(len(names), np.int64)
    new_codes[used] = [numbers.setdefault(names[code], len(numbers)) for code in used]
    return new_codes[codes]


def _chunks(
    path: Path, columns: Sequence[str], numbered: Callable[[pa.RecordBatch], KeyColumns]
) -> Iterator[KeyColumns]:
    for rows in RESULT_TABLE.batches(path, columns, ROWS_AT_ONCE):
        yield from map(numbered, rows.combine_chunks().to_batches())


def _whole_faults(chunks: Iterator[KeyColumns]) -> Iterator[KeyColumns]:
    """The same rows, cut only between faults."""
    rest: KeyColumns = {}
    for chunk in chunks:
        rows = {name: np.concatenate([rest[name], chunk[name]]) for name in chunk} if rest else chunk
        last = int(_starts(rows["fault_id"])[-1]) if len(rows["fault_id"]) else 0
        rest = {name: column[last:] for name, column in rows.items()}
        if last:
            yield {name: column[:last] for name, column in rows.items()}
    if rest and len(rest["fault_id"]):
        yield rest


def _by_tier(rows: KeyColumns) -> KeyColumns:
    """The rows of each fault, ordered by their images' tiers."""
    starts = np.zeros(len(rows["fault_id"]), np.int64)
    starts[_starts(rows["fault_id"])] = 1
    key = np.cumsum(starts) * (int(rows["tier"].max(initial=0)) + 1) + rows["tier"]
    if (key[1:] >= key[:-1]).all():
        return rows
    order = np.argsort(key, kind="stable")
    return {name: column[order] for name, column in rows.items()}


def _starts(*columns: Int64s) -> Int64s:
    """Where a run of equal rows starts."""
    changes = np.zeros(len(columns[0]), bool)
    changes[:1] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)


def populations(plans: Sequence[Path]) -> tuple[int, NDArray[np.int64]]:
    """(faults, population of each stratum by its number) of the plan's files; 0 for numbers that no stratum has."""
    faults, by_stratum = 0, np.zeros(0, np.int64)
    for path in plans:
        for batch in PLAN_TABLE.batches(path, ["stratum", "population"], ROWS_AT_ONCE):
            faults += batch.num_rows
            stratum, population = (batch.column(name).to_numpy() for name in ("stratum", "population"))
            missing = int(stratum.max(initial=-1)) + 1 - len(by_stratum)
            by_stratum = np.pad(by_stratum, (0, max(0, missing)))
            by_stratum[stratum] = population
    return faults, by_stratum
