"""Two finished campaigns, of a plain model and of its protected twin, compared fault by fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from testbed.analysis.survey import SurveyDesign
from testbed.compare.side import compared_rate, design_of
from testbed.protect.paired.false_alarms import false_alarms_of, seconds_per_alarm
from testbed.protect.paired.judged import needless_alarms
from testbed.protect.paired.model_pairs import MODEL, ModelPairs, outcomes_by_label
from testbed.protect.paired.pairing import pair_rows
from testbed.protect.paired.record import CheckerFaults, ProtectionComparison
from testbed.protect.paired.second_runs import followed_alarms
from testbed.protect.paired.sides import PairedSides

METHOD = (
    "Rows pair by the elements of the sites, the masks and the image, whatever was drawn how. Rates are of the plain"
    " campaign's population: a row weighs by its stratum, and the images under one fault are a cluster. The share removed is"
    " 1 - after / before of the same rows, its interval that of the later events among all (the delta method's variance of the"
    " ratio, with what one more event could weigh). Detection is bounded from below at 95 and 99 %, one-sided; of faults drawn"
    " alike the bounds are about Clopper and Pearson's. After protection an event is one that no alarm told of; corrected:"
    " whatever the alarms say. Second runs were run, and judged as the first."
)


def compare_protected(plain: Path, protected: Path) -> ProtectionComparison:
    """What protection changed, fault by fault.

    plain, protected: folders of finished campaigns. Raises UsageError where they are not of one model, plain and protected, in
    one engine, precision and tolerance, or have no fault and image in common; StaleArtefact for a campaign that is not
    finished or whose files were changed.
    """
    sides = PairedSides.of(plain, protected)
    paired, confidence = pair_rows(sides), sides.plain.spec.confidence
    parts = [ModelPairs(rows, confidence) for _, rows in paired.pairs.groupby(list(MODEL), sort=False)]
    seconds = seconds_per_alarm(sides.protected)
    return ProtectionComparison(
        plain=sides.plain.to_record(),
        protected=sides.protected.to_record(),
        passes=list(sides.protected.passes or ()),
        confidence=confidence,
        pairing=paired.pairing,
        groups=[group for part in parts for group in part.groups()],
        affected=[affected for part in parts for affected in part.affected()],
        new_sdc=[row for part in parts for row in part.new_sdc()],
        needless=[part.needless() for part in parts],
        false_alarms=false_alarms_of(sides.protected),
        on_detected=sides.protected.spec.protection.on_detected,
        seconds_per_alarm=seconds,
        second_runs=[] if seconds is None else [entry for part in parts for entry in followed_alarms(part, seconds)],
        checkers=list(_checkers(paired.checkers, confidence)),
        notes=list(sides.notes),
        method=METHOD,
    )


def _checkers(rows: pd.DataFrame, confidence: float) -> Iterator[CheckerFaults]:
    """Faults in what protection added, weighted by the protected campaign's own populations."""
    key: Any
    for key, part in rows.groupby(["where", "op"], sort=False):
        where, op = key
        design: SurveyDesign = design_of(part)
        kinds = part["kind"].to_numpy(str)
        for kind, labels in (("all", np.full(len(part), "all")), *((name, kinds) for name in dict.fromkeys(kinds))):
            domains, members = design.domains(labels), labels == kind
            yield CheckerFaults(
                where=where,
                op=op,
                kind=str(kind),
                faults=int(part["fault_id"][members].nunique()),
                rows=int(members.sum()),
                outcomes=outcomes_by_label(domains, part["outcome"], labels, confidence)[str(kind)],
                needless=compared_rate(domains.estimates(needless_alarms(part), confidence)[str(kind)]),
            )
