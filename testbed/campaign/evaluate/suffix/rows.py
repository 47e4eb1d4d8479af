"""Strikes that keep to one token, followed by that token alone through a part of a stage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import NotDeterministic, check_live, same_words
from testbed.campaign.evaluate.suffix.entries import by_token
from testbed.campaign.evaluate.suffix.golden import SuffixGoldens
from testbed.campaign.evaluate.suffix.segments import PortedSegment
from testbed.engines.batches import pad_rows
from testbed.instrument.cut.stages import StagePart
from testbed.instrument.cut.tokens import ROWS
from testbed.instrument.ports.feed import PortFeed


class RowRunner:
    """One part of one stage. ``size``: strikes at a time."""

    def __init__(self, segment: PortedSegment, part: StagePart, golden: SuffixGoldens, size: int) -> None:
        self._segment, self._part, self._golden, self._size = segment, part, golden, size

    def __call__(
        self,
        slot: NDArray[np.int64],
        token: NDArray[np.int64],
        changed: Mapping[str, NDArray],
        ports: PortFeed | None,
    ) -> dict[str, NDArray]:
        """What becomes of the tokens' rows: output -> (m, ...).

        changed: input -> its struck rows (m, ...), where they are not golden. ports: (m, K), numbered as the whole
        twin's, with indices into `ROWS` rows. Raises EngineError, and NotDeterministic when a live word, or the row that
        runs along unharmed, is not golden.
        """
        parts = []
        for start in range(0, len(slot), self._size):
            rows = slice(start, start + self._size)
            some = {name: values[rows] for name, values in changed.items()}
            armed = None if ports is None else ports.take(np.arange(len(slot))[rows])
            parts.append(self._run(slot[rows], token[rows], some, armed))
        return {name: np.concatenate([part[name] for part in parts]) for name in self._part.outputs}

    def _run(
        self,
        slot: NDArray[np.int64],
        token: NDArray[np.int64],
        changed: Mapping[str, NDArray],
        ports: PortFeed | None,
    ) -> dict[str, NDArray]:
        segment, count = self._segment, len(slot)
        slots, tokens = pad_rows(slot, self._size), pad_rows(token, self._size)
        feeds = {name: self._input(name, slots, tokens) for name in segment.inputs}
        for name, values in changed.items():
            by_token(feeds[name], self._part.rows[name])[:count, 0] = values
        own = None if ports is None else segment.own(ports)
        outputs, live = segment.faulty(feeds, own)
        if own is not None and live is not None and segment.table is not None:
            check_live(own, live[:count], segment.table)
        return {name: self._row(name, outputs[name][:count], slot, token) for name in self._part.outputs}

    def _input(self, name: str, slot: NDArray[np.int64], token: NDArray[np.int64]) -> NDArray:
        """Golden values: of the tokens, `ROWS` times, or all."""
        values, need = self._golden[name], self._part.inputs[name]
        if need is None:
            return values[slot]
        rows = by_token(values, need.axis)[slot, token]
        return np.ascontiguousarray(np.repeat(np.expand_dims(rows, need.axis), ROWS, need.axis))

    def _row(self, name: str, values: NDArray, slot: NDArray[np.int64], token: NDArray[np.int64]) -> NDArray:
        """The struck row, once the other is seen to be golden."""
        axis = self._part.outputs[name].axis
        rows = by_token(values, axis)
        along = np.ascontiguousarray(rows[:, 1])
        if not same_words(along, golden_rows(self._golden, name, axis, slot, token)).all():
            raise NotDeterministic(
                f"{name} of a token that nothing struck is not what it was in the golden run: this engine is not"
                " deterministic at these settings"
            )
        return np.ascontiguousarray(rows[:, 0])


def golden_rows(
    golden: SuffixGoldens, name: str, axis: int, slot: NDArray[np.int64], token: NDArray[np.int64]
) -> NDArray:
    """(m, ...) without the axis."""
    return np.ascontiguousarray(by_token(golden[name], axis)[slot, token])
