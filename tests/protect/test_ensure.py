"""What a protected file is held against before it is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from scipy.stats import binomtest

from testbed.analysis.outputs.confidence import TierEdges
from testbed.core.errors import GateFailed
from testbed.core.protected import PREFIX
from testbed.data import load
from testbed.protect.build import Protected, protect
from testbed.protect.contract import CalibrationSet
from testbed.protect.ensure import ensure
from testbed.protect.passes.checksum import ChecksumPass
from testbed.protect.passes.range import RangePass
from testbed.protect.tier_alarms import OneSidedBounds, alarms_by_tier

ENGINES = ("ort-cpu",)


@pytest.fixture(scope="module")
def seen() -> CalibrationSet:
    return CalibrationSet(load("digits").train.batch(np.arange(48)), ENGINES, "fp32")


def test_a_file_that_keeps_everything_is_described(plain: ModelProto, seen: CalibrationSet) -> None:
    unseen = load("digits").test.chosen(40, 0, "unseen")
    ensured = ensure(plain, protect(plain, [ChecksumPass(), RangePass()], seen), unseen, ENGINES, "fp32")
    (unchanged,) = ensured.unchanged
    assert (unchanged.n, unchanged.false_alarms) == (40, 0)
    assert unchanged.false_alarm_bound == pytest.approx(1 - 0.05 ** (1 / 40))
    by_tier = unchanged.alarms_by_tier
    assert [(tier.low, tier.high) for tier in by_tier] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1), (None, None)]
    assert sum(tier.images for tier in by_tier) == 40
    assert all(tier.bound_95 == pytest.approx(1 - 0.05 ** (1 / tier.images)) for tier in by_tier if tier.images)
    assert [tried.margin for tried in ensured.margins] == [1.0, 1.1, 1.3, 1.5, 2.0]
    clipped = [tried.clipped for tried in ensured.margins]
    assert clipped == sorted(clipped, reverse=True)


def test_an_alarm_without_a_fault_is_refused(plain: ModelProto, seen: CalibrationSet) -> None:
    unseen = load("digits").test.chosen(40, 0, "unseen")
    checked = protect(plain, [ChecksumPass()], seen)
    for tensor in checked.proto.graph.initializer:
        if tensor.name.startswith(f"{PREFIX}checksum.block.0.") and tensor.name.endswith(".high"):
            none = np.full(tensor.dims[0], -1e-30, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(none, tensor.name))
    with pytest.raises(GateFailed, match=r"40 of 40 unseen images raise an alarm .*--factor"):
        ensure(plain, Protected(checked.proto, checked.applied), unseen, ENGINES, "fp32")


def test_a_pass_that_only_detects_may_not_move_outputs(plain: ModelProto, seen: CalibrationSet) -> None:
    unseen = load("digits").test.chosen(40, 0, "unseen")
    checked = protect(plain, [ChecksumPass()], seen)
    for tensor in checked.proto.graph.initializer:
        if tensor.name == "head.bias":
            moved = onnx.numpy_helper.to_array(tensor) + np.float32(5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    with pytest.raises(GateFailed, match="move a logit by 5"):
        ensure(plain, Protected(checked.proto, checked.applied), unseen, ENGINES, "fp32")


def test_the_bound_of_no_alarms_is_the_rule_of_three() -> None:
    assert OneSidedBounds.of(0, 1000).bound_95 == pytest.approx(3 / 1000, rel=0.01)
    assert OneSidedBounds.of(0, 0) == OneSidedBounds(1.0, 1.0)


def test_alarms_are_counted_on_the_images_of_each_tier() -> None:
    """Margins of two classes: 0.1, 0.4, 0.9 and 0.9, the last on the wrong side; bounds are SciPy's exact ones."""
    margins = np.array([0.1, 0.4, 0.9, 0.9])
    logits = np.stack([np.log((1 + margins) / 2), np.log((1 - margins) / 2)], axis=1)
    tiers = alarms_by_tier(np.array([True, False, True, True]), logits, np.array([0, 0, 0, 1]), TierEdges((0.5, 1.0)))
    assert [(tier.low, tier.high, tier.images, tier.alarms) for tier in tiers] == [
        (0.0, 0.5, 2, 1),
        (0.5, 1.0, 1, 1),
        (None, None, 1, 1),
    ]
    for bound, level in ((tiers[0].bound_95, 0.95), (tiers[0].bound_99, 0.99)):
        assert bound == pytest.approx(binomtest(1, 2, alternative="less").proportion_ci(level, "exact").high)
