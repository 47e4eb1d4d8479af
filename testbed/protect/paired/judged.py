"""What each paired row was, before and after protection: (rows,) of booleans."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from testbed.core.arrays import Bools
from testbed.core.outcome import NOT_OUTSIDE, Outcome


@dataclass(frozen=True, eq=False)
class JudgedPairs:
    """Outcomes of paired rows. An event after protection is one that no alarm told of; what its output shows all the same is
    kept in the row."""

    pairs: pd.DataFrame

    @property
    def has_classes(self) -> bool:
        return bool((self.pairs["top1_golden"] >= 0).any())

    @property
    def detected(self) -> Bools:
        """Rows with an alarm of the protected engine's own checks."""
        return self._of(self.pairs["outcome_b"].eq(Outcome.DETECTED))

    @property
    def was_nonfinite(self) -> Bools:
        return self._of(self.pairs["nonfinite"])

    def before(self, event: str) -> Bools:
        """Rows with the event in the plain campaign. event: "sdc1" or "outside"."""
        return self._event(event, "")

    def after(self, event: str) -> Bools:
        """Rows with the event in the protected campaign, without an alarm."""
        return self._event(event, "_b")

    def after_without_alarms(self, event: str) -> Bools:
        """Rows whose output shows the event in the protected campaign, whether or not there was an alarm."""
        rows = self.pairs
        if event == "sdc1":
            shown = (rows["top1_golden_b"] >= 0) & (rows["top1_faulty_b"] != rows["top1_golden_b"])
        else:
            shown = rows["mismatches_b"] > 0
        return self.after(event) | (self.detected & self._of(shown))

    def _event(self, event: str, side: str) -> Bools:
        outcome = self.pairs[f"outcome{side}"]
        return self._of(outcome.eq(Outcome.SDC1) if event == "sdc1" else ~outcome.isin(list(NOT_OUTSIDE)))

    @staticmethod
    def _of(values: pd.Series) -> Bools:
        return values.to_numpy(bool)


def needless_alarms(rows: pd.DataFrame, side: str = "") -> Bools:
    """Rows with an alarm although the output was inside the tolerance. side: end of the columns' names."""
    alarms = rows[f"outcome{side}"].eq(Outcome.DETECTED) & rows[f"mismatches{side}"].eq(0)
    return alarms.to_numpy(bool)
