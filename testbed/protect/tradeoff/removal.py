"""What was expected to be removed and what was: the same rows of the plain model's event, by where they were and what became of
them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from testbed.core.arrays import Bools
from testbed.core.outcome import MEASURE_NAMES
from testbed.protect.paired.model_pairs import ModelPairs
from testbed.protect.paired.record import EventName, ShareRemoved
from testbed.protect.tradeoff.record import RemovalAccount, SharedRows


@dataclass(frozen=True, eq=False)
class EventRows:
    """Paired rows of one fault model, as one event sees them. before, after, detected: (rows,); after: without an alarm."""

    pairs: ModelPairs
    event: EventName
    before: Bools
    after: Bools
    detected: Bools

    @classmethod
    def of(cls, pairs: ModelPairs, event: EventName) -> EventRows:
        """The rows of an event."""
        judged = pairs.judged
        return cls(pairs, event, judged.before(event), judged.after(event), judged.detected)

    def share(self, members: Bools) -> SharedRows:
        """The part of the event before protection that these rows were, with its survey interval. members: (rows,)."""
        estimate = self.pairs.design.by_group(members, self.before, self.pairs.confidence)[True]
        inside = self.before & members
        return SharedRows(share=estimate.rate, low=estimate.low, high=estimate.high, rows=int(inside.sum()))

    def ratio_to_before(self, members: Bools) -> float:
        """The weight of these rows over that of the event before protection."""
        weights = self.pairs.design.row_weight[self.pairs.design.stratum_of_cluster][self.pairs.design.cluster_of_row]
        return float(weights[members].sum() / weights[self.before].sum())


def removal_account(
    rows: EventRows, name: str, covered: Collection[str], removed: ShareRemoved
) -> RemovalAccount | None:
    """The account of a model's removal; None where the plain model had no such event. name: of the model; covered: the sites
    that its places cover; removed: the share that was removed."""
    if not rows.before.any():
        return None
    sites = rows.pairs.rows["site"]
    is_covered = sites.isin(list(covered)).to_numpy(bool)
    gone, elsewhere = rows.before & ~rows.after, ~is_covered
    expected = rows.share(is_covered)
    left = rows.share(is_covered & rows.after)
    mended, noticed = (rows.share(gone & elsewhere & which) for which in (~rows.detected, rows.detected))
    added = ~rows.before & rows.after
    return RemovalAccount(
        model=name,
        **rows.pairs.of_model,
        event=rows.event,
        covered_sites=int(sites[is_covered].nunique()),
        sites=int(sites.nunique()),
        expected=expected,
        removed=removed,
        left_at_covered=left,
        mended_elsewhere=mended,
        noticed_elsewhere=noticed,
        added=rows.ratio_to_before(added),
        added_rows=int(added.sum()),
        why=_why(rows.event, expected, removed, left, mended, noticed, rows.ratio_to_before(added), int(added.sum())),
    )


def _why(
    event: EventName,
    expected: SharedRows,
    removed: ShareRemoved,
    left: SharedRows,
    mended: SharedRows,
    noticed: SharedRows,
    added: float,
    added_rows: int,
) -> str:
    share = np.nan if removed.share is None else removed.share
    ends = ", ".join("no bound" if end is None else f"{100 * end:.1f}" for end in (removed.low, removed.high))
    what = "SDC-1" if event == "sdc1" else f"what was {MEASURE_NAMES[event]} the tolerance"
    sentence = (
        f"of {what}, {100 * share:.1f} % [{ends}] was removed; {_percent(expected)} was expected, its share at sites that the"
        " places cover"
    )
    terms = (
        ("+", mended.share, mended.rows, "mended downstream of sites that no place covers"),
        ("+", noticed.share, noticed.rows, "noticed downstream of sites that no place covers"),
        ("-", left.share, left.rows, "left at sites that places cover"),
        ("-", added, added_rows, "new under protection alone"),
    )
    parts = [f"{sign}{_points(part)} {what_it_is} ({rows:,} rows)" for sign, part, rows, what_it_is in terms if rows]
    if not parts:
        return f"{sentence}: as expected, with nothing left there and nothing removed elsewhere."
    return f"{sentence}; the difference of {100 * (share - expected.share):+.1f} points: {', '.join(parts)}."


def _points(share: float) -> str:
    return f"{100 * share:.1f}" if share >= 0.0005 else f"{100 * share:.2g}"


def _percent(term: SharedRows) -> str:
    return f"{100 * term.share:.1f} % [{100 * term.low:.1f}, {100 * term.high:.1f}]"
