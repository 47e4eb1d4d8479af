"""Rows of all models of a trade-off, by fault model: those of the plain campaigns, and those that pair with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from testbed.protect.paired.model_pairs import MODEL, ModelPairs
from testbed.protect.paired.record import EventName
from testbed.protect.paired.sides import PairedSide
from testbed.protect.tradeoff.campaigns import FaultModelKey, TradeoffCampaigns
from testbed.protect.tradeoff.events import EventTable
from testbed.protect.tradeoff.record import CostedModel


@dataclass(frozen=True, eq=False)
class WeighedRows:
    """Fault models that some protected model was measured under, in the order of the plain campaigns.

    plain: fault model -> all rows of the plain campaign; protected: fault model -> number of the model -> the campaign that
    they are from, and the rows that pair.
    """

    confidence: float
    plain: dict[FaultModelKey, ModelPairs]
    protected: dict[FaultModelKey, dict[int, tuple[PairedSide, ModelPairs]]]

    @classmethod
    def of(cls, campaigns: TradeoffCampaigns) -> WeighedRows:
        """Collect the rows of all campaigns, at the confidence of the first plain one."""
        confidence = campaigns.plain.campaigns[0].spec.confidence
        protected: dict[FaultModelKey, dict[int, tuple[PairedSide, ModelPairs]]] = {
            key: {} for key in campaigns.plain_of
        }
        for pair in campaigns.pairs:
            number = campaigns.protected.index(pair.model)
            for key in pair.fault_models:
                rows = _of_model(pair.rows.pairs, key)
                if len(rows):
                    protected[key][number] = pair.sides.protected, ModelPairs(rows, confidence)
        plain = {
            key: ModelPairs(_of_model(side.judged_rows, key), confidence)
            for key, side in campaigns.plain_of.items()
            if protected[key]
        }
        return cls(confidence, plain, {key: protected[key] for key in plain})

    def events(self, key: FaultModelKey) -> tuple[EventName, ...]:
        """The events that a fault model's rows tell of."""
        return ("sdc1", "outside") if self.plain[key].judged.has_classes else ("outside",)

    def table(self, key: FaultModelKey, event: EventName, models: Sequence[CostedModel]) -> EventTable:
        """Which rows had the event, by names of models. models: the protected ones."""
        named = {models[number].name: pairs for number, (_, pairs) in self.protected[key].items()}
        return EventTable.of(self.plain[key], named, event)


def _of_model(rows: pd.DataFrame, key: FaultModelKey) -> pd.DataFrame:
    is_of_model = np.logical_and.reduce([rows[name] == value for name, value in zip(MODEL, key, strict=True)])
    return rows[is_of_model].reset_index(drop=True)
