"""One event under one fault model, in the plain model and in each protected one, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from testbed.analysis.paired import RemovedShare, removed_by_group
from testbed.analysis.survey import SurveyDesign
from testbed.compare.side import design_of
from testbed.core.arrays import Bools, Float64s
from testbed.protect.paired.model_pairs import ModelPairs
from testbed.protect.paired.record import EventName

_ROW = ["fault_id", "image_id"]


@dataclass(frozen=True, eq=False)
class EventTable:
    """Which rows had the event, model by model. rows: of the plain campaign; before: (rows,) whether the plain model had it;
    after: model -> (rows,) whether that did without an alarm, NaN where it has no partner for the row."""

    rows: pd.DataFrame
    confidence: float
    before: Bools
    after: Mapping[str, Float64s]

    @classmethod
    def of(cls, plain: ModelPairs, protected: Mapping[str, ModelPairs], event: EventName) -> EventTable:
        """Lay the models' rows side by side. plain: all rows of the fault model; protected: by model, those that pair."""
        keys = pd.MultiIndex.from_frame(plain.rows[_ROW])
        after = {}
        for name, pairs in protected.items():
            values = pd.Series(pairs.judged.after(event).astype(float), pd.MultiIndex.from_frame(pairs.rows[_ROW]))
            after[name] = values.reindex(keys).to_numpy(np.float64)
        return cls(plain.rows, plain.confidence, plain.judged.before(event), after)

    def removed(self, first: str | None, second: str | None) -> RemovedShare | None:
        """The share of the first model's events that the second does not have, over rows that both have, paired; None where
        neither has any. None for a name: the plain model."""
        values = [self.before.astype(float) if name is None else self.after[name] for name in (first, second)]
        common = ~np.isnan(values[0]) & ~np.isnan(values[1])
        design = self._design if common.all() else design_of(self.rows[common])
        old, new = (part[common] for part in values)
        shares = removed_by_group(design, old, new, np.zeros(len(old), np.int64), self.confidence)
        return shares.get(0)

    @cached_property
    def _design(self) -> SurveyDesign:
        return design_of(self.rows)

    def leaves_fewer(self, first: str | None, second: str | None) -> bool:
        """Whether the first model is shown to leave fewer events than the second."""
        if first == second:
            return False
        removed = self.removed(second, first)
        return removed is not None and removed.low is not None and removed.low > 0
