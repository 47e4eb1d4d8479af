"""What protection changed of one fault model, from its paired rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from testbed.analysis.paired import RemovedShare, removed_by_group
from testbed.analysis.survey import RowDomains
from testbed.compare.side import compared_rate, design_of
from testbed.core.arrays import Bools, Int64s
from testbed.core.outcome import OUTCOMES
from testbed.protect.paired.judged import JudgedPairs, needless_alarms
from testbed.protect.paired.record import (
    Affected,
    AffectedRows,
    BecameOutcome,
    BoundedDetection,
    By,
    EventChange,
    EventName,
    NeedlessAlarms,
    NewSdc,
    ProtectedGroup,
    ShareRemoved,
)

MODEL = ("target", "where", "op")  # op: the label, with pattern and scope
GROUPINGS: tuple[By, ...] = ("all", "kind", "bit_class", "tier")
ONE_SIDED = {"low_95": 0.90, "low_99": 0.98}  # two-sided levels, whose lower ends alone hold 95 and 99 %


class ModelPairs:
    """Paired rows of one fault model, which no rate mixes with another.

    rows: of the plain campaign, with the partners' columns ending in ``_b``, as `pair_rows` gives them.
    """

    def __init__(self, rows: pd.DataFrame, confidence: float) -> None:
        self.rows, self.confidence = rows, confidence
        self.design, self.judged = design_of(rows), JudgedPairs(rows)
        self.of_model = {name: rows[name].iloc[0] for name in MODEL}

    def groups(self, groupings: Sequence[By] = GROUPINGS) -> Iterator[ProtectedGroup]:
        """Events before and after: of all faults, by kind of site, by bit class and by tier, or by some of these."""
        for by in groupings:
            codes, values = self.codes(by)
            domains = self.design.domains(codes)
            changes = {
                event: self._changes(domains, event, codes)
                for event in (("sdc1", "outside") if self.judged.has_classes else ("outside",))
            }
            for code, value in enumerate(values):
                outside = changes["outside"][code]
                yield ProtectedGroup(
                    **self.of_model,
                    by=by,
                    value=value,
                    faults=self._faults(codes == code),
                    rows=int((codes == code).sum()),
                    sdc1=changes["sdc1"][code] if "sdc1" in changes else None,
                    outside=outside,
                )

    def _changes(self, domains: RowDomains, event: EventName, codes: Int64s) -> dict[int, EventChange]:
        before, after = self.judged.before(event), self.judged.after(event)
        shown, new = self.judged.after_without_alarms(event), ~before & after
        rates = [domains.estimates(values, self.confidence) for values in (before, after, shown, new)]
        removed, corrected = (
            removed_by_group(self.design, before, values, codes, self.confidence) for values in (after, shown)
        )
        return {
            code: EventChange(
                before=compared_rate(rates[0][code]),
                after=compared_rate(rates[1][code]),
                after_without_alarms=compared_rate(rates[2][code]),
                removed=_share(removed.get(code)),
                corrected=_share(corrected.get(code)),
                new_rows=int(new[codes == code].sum()),
                new=compared_rate(rates[3][code]),
            )
            for code in np.unique(codes).tolist()
        }

    def affected(self, groupings: Sequence[By] = GROUPINGS) -> Iterator[AffectedRows]:
        """What rows became that had an event in the plain campaign, with what the checks detect of them at least."""
        events: dict[Affected, Bools] = {"outside": self.judged.before("outside")}
        if self.judged.has_classes:
            events = {"sdc1": self.judged.before("sdc1"), **events}
        events["nonfinite"] = self.judged.was_nonfinite
        for event, inside in events.items():
            if not inside.any():
                continue
            rows, detected = self.rows[inside], self.judged.detected[inside]
            for by in groupings:
                every_code, values = self.codes(by)
                codes = every_code[inside]
                domains = self.design.domains(codes, inside)
                detection = _detection_by_label(domains, detected, codes, self.confidence)
                became = outcomes_by_label(domains, rows["outcome_b"], codes, self.confidence)
                for code in np.unique(codes).tolist():
                    yield AffectedRows(
                        **self.of_model,
                        by=by,
                        value=values[code],
                        event=event,
                        faults=int(rows["fault_id"][codes == code].nunique()),
                        rows=int((codes == code).sum()),
                        detected=detection[code],
                        became=became[code],
                    )

    def new_sdc(self) -> Iterator[NewSdc]:
        """Rows whose top-1 changed under protection alone."""
        is_new = ~self.judged.before("sdc1") & self.judged.after("sdc1")
        for row in self.rows.loc[is_new, list(NewSdc.model_fields)].to_dict("records"):
            values = {name: None if value == np.inf else value for name, value in row.items()}
            yield NewSdc.model_validate(values | {"bit": None if row["bit"] < 0 else row["bit"]})

    def needless(self) -> NeedlessAlarms:
        """Alarms although the output was inside the tolerance."""
        detected, needless = self.judged.detected, needless_alarms(self.rows, "_b")
        alarms = None
        if detected.any():
            alarms = compared_rate(self.design.by_group(needless, detected, self.confidence)[True])
        return NeedlessAlarms(
            **self.of_model,
            alarms=int(detected.sum()),
            needless=int(needless.sum()),
            of_alarms=alarms,
            of_rows=compared_rate(self.design.estimate(needless, self.confidence)),
        )

    def codes(self, by: By) -> tuple[Int64s, list[str | None]]:
        """(rows,) numbers of the groups, and their names in the order in which people look for them."""
        if by == "all":
            return np.zeros(len(self.rows), np.int64), [None]
        values = self.rows[by]
        names = sorted(values.unique()) if by == "tier" else list(dict.fromkeys(values))
        numbers = {name: number for number, name in enumerate(names)}
        return values.map(numbers).to_numpy(np.int64), [str(name) for name in names]

    def _faults(self, members: Bools) -> int:
        return int(self.rows["fault_id"][members].nunique())


def _share(removed: RemovedShare | None) -> ShareRemoved:
    if removed is None:
        return ShareRemoved(share=None, low=None, high=None)
    return ShareRemoved(share=removed.share, low=removed.low, high=removed.high)


def _detection_by_label(
    domains: RowDomains, detected: Bools, labels: Int64s, confidence: float
) -> dict[Hashable, BoundedDetection]:
    estimates = domains.estimates(detected, confidence)
    ends = {name: domains.estimates(detected, level) for name, level in ONE_SIDED.items()}
    rows = Counter(labels[detected].tolist())
    return {
        label: BoundedDetection(
            rows=rows[label],
            rate=estimate.rate,
            low=estimate.low,
            high=estimate.high,
            low_95=ends["low_95"][label].low,
            low_99=ends["low_99"][label].low,
        )
        for label, estimate in estimates.items()
    }


def outcomes_by_label(
    domains: RowDomains, outcome: pd.Series, labels: NDArray, confidence: float
) -> dict[Hashable, list[BecameOutcome]]:
    """The outcomes that the rows of each label have, in the order of their severity. outcome, labels: (rows,)."""
    became: dict[Hashable, list[BecameOutcome]] = {label: [] for label in domains.labels}
    for name in OUTCOMES:
        is_so = outcome.eq(name).to_numpy(bool)
        if is_so.any():
            estimates = domains.estimates(is_so, confidence)
            for label, rows in Counter(labels[is_so].tolist()).items():
                became[label].append(BecameOutcome(outcome=name, rows=rows, rate=compared_rate(estimates[label])))
    return became
