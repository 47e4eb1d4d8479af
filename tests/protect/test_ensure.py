"""What a protected file is held against before it is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from testbed.core.errors import GateFailed
from testbed.core.protected import PREFIX
from testbed.data import load
from testbed.protect.build import Protected, protect
from testbed.protect.contract import CalibrationSet
from testbed.protect.ensure import ensure, upper_bound
from testbed.protect.passes.checksum import ChecksumPass
from testbed.protect.passes.range import RangePass

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
    assert upper_bound(0, 1000) == pytest.approx(3 / 1000, rel=0.01)
