"""What followed alarms: images run twice, what that recovered, and what it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from testbed.analysis.survey import RowDomains
from testbed.compare.record import ComparedRate
from testbed.compare.side import compared_rate
from testbed.core.arrays import Bools, Int64s
from testbed.protect.paired.judged import needless_alarms
from testbed.protect.paired.model_pairs import GROUPINGS, ONE_SIDED, ModelPairs
from testbed.protect.paired.record import ExtraSeconds, FollowedAlarms, RecoveredRows


def followed_alarms(part: ModelPairs, seconds_per_alarm: float) -> Iterator[FollowedAlarms]:
    """Second runs under one fault model's faults: of all, by kind of site, by bit class and by tier."""
    rows = part.rows
    ran = rows["recovered_b"].to_numpy(np.int64) >= 0
    recovered = rows["recovered_b"].to_numpy(np.int64) == 1
    needless = needless_alarms(rows, "_b") & ran
    scope = str(rows["scope"].iloc[0])
    for by in GROUPINGS:
        codes, values = part.codes(by)
        domains = part.design.domains(codes)
        twice, needlessly, rightly = (
            {code: compared_rate(e) for code, e in domains.estimates(own, part.confidence).items()}
            for own in (ran, needless, ran & ~needless)
        )
        shares = _recovered(part.design.domains(codes[ran], ran), recovered, codes, part, ran) if ran.any() else {}
        for code, value in enumerate(values):
            yield FollowedAlarms(
                **part.of_model,
                scope=scope,
                by=by,
                value=value,
                rows=int((codes == code).sum()),
                alarms=int(ran[codes == code].sum()),
                run_twice=twice[code],
                run_twice_rightly=rightly[code],
                run_twice_needlessly=needlessly[code],
                recovered=shares.get(code),
                seconds=_seconds(twice[code], seconds_per_alarm),
            )


def _recovered(
    domains: RowDomains, recovered: Bools, codes: Int64s, part: ModelPairs, ran: Bools
) -> dict[int, RecoveredRows]:
    estimates = domains.estimates(recovered[ran], part.confidence)
    ends = {name: domains.estimates(recovered[ran], level) for name, level in ONE_SIDED.items()}
    rows = Counter(codes[recovered].tolist())
    return {
        int(str(code)): RecoveredRows(
            rows=rows[code],
            rate=estimate.rate,
            low=estimate.low,
            high=estimate.high,
            low_95=ends["low_95"][code].low,
            low_99=ends["low_99"][code].low,
        )
        for code, estimate in estimates.items()
    }


def _seconds(share: ComparedRate, seconds_per_alarm: float) -> ExtraSeconds:
    mean, low, high = (end * seconds_per_alarm for end in (share.rate, share.low, share.high))
    return ExtraSeconds(mean=mean, low=low, high=high)
