"""What becomes of faults, from a table small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.analysis.two_phase import TwoPhaseSample
from testbed.core.fault import FaultModel
from testbed.sensitivity.campaign_lens.record import AbsorbedWithin, LensEstimate
from testbed.sensitivity.campaign_lens.rows import LensRows
from testbed.sensitivity.campaign_lens.shares import PathShares, median_of
from testbed.sensitivity.campaign_lens.walk import FaultPath

STATES = ["embed", "block.0", "block.1", "block.2"]
PATHS = (  # entry, absorbed, takes over, repaired, top-1
    FaultPath(1, 1, None, None, 3),
    FaultPath(1, 3, None, 3, 3),
    FaultPath(2, None, 2, None, 1),
    FaultPath(0, 0, None, None, 3),
)


def shares() -> PathShares:
    words = np.array(["q", "q", "fc1", "embed"], object)
    rows = LensRows(
        model=FaultModel("model", "activation", "flip", "single", "inference"),
        fault_id=np.arange(4),
        image=np.zeros(4, np.int64),
        entry=np.array([path.entry for path in PATHS]),
        kind=words,
        site=words,
        bit_class=np.array(["sign", "exponent", "exponent", "sign"], object),
        outcome=np.array(["masked", "sdc_tolerable", "sdc1", "identical"], object),
        stratum=np.arange(4),
        population=np.array([1.0, 2.0, 3.0, 4.0]),
        stratum_rows=np.ones(4, np.int64),
        top1=np.array([3, 3, 1, 3]),
    )
    design = TwoPhaseSample(rows.weight, np.array([2, 1, 0, 3]), np.ones(4, np.int64), np.array([3.0, 2.0, 1.0, 4.0]))
    return PathShares(rows, design, PATHS, STATES)


def test_groups_by_hand() -> None:
    groups = {(group.by, group.value): group for group in shares().groups()}
    everything = groups["all", None]
    assert everything.n == 4
    assert everything.absorbed.value == pytest.approx(0.7)
    assert everything.taken_over.value == pytest.approx(0.3)
    assert everything.repaired.value == pytest.approx(0.2)
    assert [(point.depth, round(point.share.value, 9)) for point in everything.within] == [(0, 0.5), (1, 0.5), (2, 0.7)]
    assert everything.median_depth.value == 0
    assert everything.mean_depth is not None
    assert everything.mean_depth.value == pytest.approx((1 * 0 + 2 * 2 + 4 * 0) / 7)
    assert everything.mean_depth.n == 3
    assert groups["kind", "q"].absorbed.value == 1
    assert groups["kind", "q"].repaired.value == pytest.approx(2 / 3)
    assert groups["kind", "fc1"].absorbed.value == 0
    assert groups["kind", "fc1"].mean_depth is None
    assert groups["kind", "fc1"].median_depth.value is None
    assert groups["bit_class", "exponent"].taken_over.value == pytest.approx(3 / 5)
    assert groups["block", None].n == 1
    assert groups["block", 0].n == 2
    assert groups["outcome", "sdc1"].taken_over.value == 1
    for group in groups.values():
        for estimate in (group.absorbed, group.taken_over, group.repaired):
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
            assert estimate.n == group.n


def test_changes_are_shares_of_those_that_change() -> None:
    changes = {(change.change, change.after): change.share for change in shares().changes()}
    assert changes["absorbed", "embed"].value == pytest.approx(4 / 7)
    assert changes["absorbed", "block.0"].value == pytest.approx(1 / 7)
    assert changes["absorbed", "block.2"].value == pytest.approx(2 / 7)
    assert changes["repaired", "block.2"].value == 1
    assert changes["takes_over", "block.1"].value == 1
    assert {share.n for share in changes.values()} == {3, 1}
    assert len(changes) == 5


def test_a_median_has_the_limits_of_the_shares() -> None:
    within = [
        AbsorbedWithin(depth=depth, share=LensEstimate(value=value, low=low, high=high, n=9))
        for depth, value, low, high in [(0, 0.3, 0.1, 0.5), (1, 0.5, 0.3, 0.7), (2, 0.6, 0.45, 0.8)]
    ]
    median = median_of(within, 9)
    assert (median.low, median.value, median.high, median.n) == (0, 1, None, 9)
