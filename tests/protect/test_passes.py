"""Each pass against what it promises, computed here from the plain model's own tensors."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from testbed.core.errors import GateFailed, TestbedError, UsageError
from testbed.core.fault import Masks
from testbed.core.protected import DETECTED, PREFIX, is_protected
from testbed.engines.runner import Runner
from testbed.protect.build import Protected, protect
from testbed.protect.canaries.fly import fly
from testbed.protect.contract import CalibrationSet, ProtectionPass
from testbed.protect.graph import GraphEditor
from testbed.protect.observe import run_all, values
from testbed.protect.passes.checksum import ChecksumPass
from testbed.protect.passes.duplicate import DuplicatePass
from testbed.protect.passes.nonfinite import NonfinitePass
from testbed.protect.passes.range import RangePass
from testbed.testing import InstrumentedModel
from tests.protect.conftest import some_images

ENGINE = "ort-cpu"


@pytest.fixture(scope="module")
def checked(plain: ModelProto, calibration: CalibrationSet) -> Protected:
    return protect(plain, [ChecksumPass()], calibration)


@cache
def opened(content: bytes) -> tuple[InstrumentedModel, Runner]:
    """A file's twin, built once for all faults."""
    model = InstrumentedModel.of_onnx(content)
    return model, model.open_twin(ENGINE, max_batch=1)


def faulty(proto: ModelProto, site: str, words: list[int]) -> tuple[NDArray, NDArray]:
    """Logits and alarms, one image for each word, which replaces the site's middle element."""
    model, twin = opened(proto.SerializeToString())
    elements = next(s.elements for s in model.sites if s.name == site)
    images, index, golden = some_images(len(words), 3), np.array([elements // 2]), np.zeros(1, np.float32)
    results = [
        twin.run(model.feeds(images[row : row + 1], model.fault(site, index, Masks(0, word, 0), golden)))
        for row, word in enumerate(words)
    ]
    alarms = [np.asarray(result.get(DETECTED, np.zeros(1, bool))) for result in results]
    return np.concatenate([result[model.output_name] for result in results]), np.concatenate(alarms)


def test_checks_cover_every_site_and_change_no_bit(plain: ModelProto, checked: Protected) -> None:
    images = some_images(50, 2)
    before = run_all(plain, images, ENGINE, "fp32")["head"]
    after = run_all(checked.proto, images, ENGINE, "fp32")
    np.testing.assert_array_equal(after["head"].view(np.uint32), before.view(np.uint32))
    assert not after[DETECTED].any()
    covered = {site for place in checked.applied[0].places for site in place.covers}
    assert covered >= set(GraphEditor(plain).sites)
    assert checked.applied[0].left_out == {}


def test_a_check_sees_what_numpy_says_it_should(plain: ModelProto, checked: Protected) -> None:
    """The value of fc1's check is the sum of its output less that of its input times the rows' sums, plus the biases'."""
    names = ["block.0.norm2", "block.0.mlp.fc1"]
    watched = ModelProto()
    watched.CopyFrom(checked.proto)
    typed = {value.name: value for value in watched.graph.value_info}
    watched.graph.output.extend(typed[name] for name in names)
    results = run_all(watched, some_images(4, 5), ENGINE, "fp32")
    stored = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in plain.graph.initializer}
    taken, made = (results[name].astype(np.float64) for name in names)
    wanted = taken.sum(1) @ stored["block.0.mlp.fc1.weight"].sum(1) + 17 * stored["block.0.mlp.fc1.bias"].sum()
    np.testing.assert_allclose(made.sum((1, 2)), wanted, rtol=1e-5)
    place = next(p for p in checked.applied[0].places if p.name == "block.0.mlp.fc1")
    assert place.high is not None
    assert place.high >= np.abs(made.sum((1, 2)) - wanted).max()


@pytest.mark.parametrize("word", [0x7149F2CA, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001])
def test_a_loud_value_in_any_site_raises_the_alarm(plain: ModelProto, checked: Protected, word: int) -> None:
    for site in GraphEditor(plain).sites:
        assert faulty(checked.proto, site, [word])[1].all(), site


def test_a_guard_brings_values_back_and_nan_to_zero(plain: ModelProto, calibration: CalibrationSet) -> None:
    guarded = protect(plain, [RangePass(("block.0.mlp.gelu",), 1.0)], calibration)
    (place,) = guarded.applied[0].places
    assert place.high is not None
    high, zero = (int(np.float32(value).view(np.uint32)) for value in (place.high, 0.0))
    words = [0x7149F2CA, 0x7F800000, 0x7FC00000, 0xFFC00000, 0x7F800001]
    wanted, _ = faulty(plain, "block.0.mlp.gelu", [high, high, zero, zero, zero])
    np.testing.assert_array_equal(faulty(guarded.proto, "block.0.mlp.gelu", words)[0], wanted)
    assert len(guarded.proto.graph.output) == 1


def test_a_guard_can_keep_nan(plain: ModelProto, calibration: CalibrationSet) -> None:
    guarded = protect(plain, [RangePass(("block.1.mlp.residual",), 1.3, "keep")], calibration)
    assert np.isnan(faulty(guarded.proto, "block.1.mlp.residual", [0x7FC00000])[0]).sum() in (0, 4)
    everywhere = protect(plain, [RangePass(("norm",), 1.3, "keep")], calibration)
    assert np.isnan(faulty(everywhere.proto, "norm", [0x7FC00000])[0]).all()


def test_guards_change_nothing_inside_the_calibrated_range(plain: ModelProto, calibration: CalibrationSet) -> None:
    guarded = protect(plain, [RangePass(("*", "!head"), 1.0)], calibration)
    before, after = (run_all(p, calibration.images, ENGINE, "fp32")["head"] for p in (plain, guarded.proto))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_vote_undoes_a_fault_in_one_of_three(plain: ModelProto, calibration: CalibrationSet) -> None:
    voted = protect(plain, [DuplicatePass(("block.0.mlp",), vote=True)], calibration)
    image = some_images(1, 3)
    wanted = run_all(plain, image, ENGINE, "fp32", batch=1)["head"]
    for site in ("block.0.mlp.fc1", f"{PREFIX}duplicate.1.block.0.mlp.block.0.mlp.fc1"):
        np.testing.assert_allclose(faulty(voted.proto, site, [0x7149F2CA])[0], wanted, rtol=1e-5, atol=1e-6)


def test_a_copy_that_differs_raises_the_alarm(plain: ModelProto, calibration: CalibrationSet) -> None:
    doubled = protect(plain, [DuplicatePass(("block.*.attn",))], calibration)
    for site in ("block.1.attn.q", f"{PREFIX}duplicate.1.block.1.attn.block.1.attn.v"):
        assert faulty(doubled.proto, site, [0x40A00000])[1].all(), site
    assert not run_all(doubled.proto, some_images(40, 9), ENGINE, "fp32")[DETECTED].any()


def test_a_pattern_of_blocks_copies_whole_blocks(plain: ModelProto, calibration: CalibrationSet) -> None:
    doubled = protect(plain, [DuplicatePass(("block.*",))], calibration)
    assert [place.name for place in doubled.applied[0].places] == ["block.0", "block.1"]


def test_non_finite_values_raise_the_alarm_and_large_ones_do_not(
    plain: ModelProto, calibration: CalibrationSet
) -> None:
    flagged = protect(plain, [NonfinitePass()], calibration)
    seen = faulty(flagged.proto, "block.0.mlp.residual", [0x7FC00000, 0x7F800000, 0xFF800000, 0x501502F9])[1]
    assert seen.tolist() == [True, True, True, False]


def test_all_passes_go_together(plain: ModelProto, calibration: CalibrationSet) -> None:
    passes: list[ProtectionPass] = [
        NonfinitePass(),
        ChecksumPass(),
        DuplicatePass(("block.0.attn",)),
        RangePass(("*.mlp.gelu",)),
    ]
    both = protect(plain, passes, calibration)
    assert [done.name for done in both.applied] == ["range", "duplicate", "checksum", "nonfinite"]
    results = run_all(both.proto, calibration.images, ENGINE, "fp32")
    assert not results[DETECTED].any()
    assert is_protected(both.proto)


def test_the_canary_finds_a_check_that_never_fires(plain: ModelProto, checked: Protected) -> None:
    deaf = ModelProto()
    deaf.CopyFrom(checked.proto)
    for tensor in deaf.graph.initializer:
        if tensor.name.startswith(f"{PREFIX}checksum.block.1.") and tensor.name.endswith((".high", ".low")):
            sign = 1 if tensor.name.endswith("high") else -1
            endless = np.full(tensor.dims[0], sign * np.inf, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(endless, tensor.name))
    with pytest.raises(GateFailed, match=r"block\.1\..* does not see a fault"):
        fly(deaf, checked.applied, some_images(1, 4), ENGINE, "fp32")
    canary = fly(checked.proto, checked.applied, some_images(1, 4), ENGINE, "fp32")
    assert canary.activations == len(checked.applied[0].places)
    assert canary.weights > 0


def test_a_pass_whose_check_is_gone_is_found(checked: Protected) -> None:
    less = ModelProto()
    less.CopyFrom(checked.proto)
    kept = [t for t in less.graph.initializer if not t.name.startswith(f"{PREFIX}checksum.block.1.")]
    del less.graph.initializer[:]
    less.graph.initializer.extend(kept)
    with pytest.raises(TestbedError, match="checks were added"):
        ChecksumPass().ensures(less, checked.applied[0])


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (RangePass(("block.9.*",)), "no site matches 'block.9"),
        (RangePass(("head",)), "leaves no site that a range guard"),
        (DuplicatePass(("block.0.scores",)), "no part matches"),
        (DuplicatePass(("block.0", "block.0.mlp")), "share nodes"),
    ],
)
def test_what_cannot_be_protected_is_said(
    plain: ModelProto, calibration: CalibrationSet, step: RangePass | DuplicatePass, wanted: str
) -> None:
    with pytest.raises(UsageError, match=wanted):
        protect(plain, [step], calibration)


def test_a_protected_file_is_not_protected_again(checked: Protected, calibration: CalibrationSet) -> None:
    with pytest.raises(UsageError, match="protected already"):
        protect(checked.proto, [RangePass()], calibration)
    with pytest.raises(UsageError, match="margin"):
        RangePass(margin=0.9)


def test_sums_do_not_depend_on_where_a_row_lies_in_the_batch(plain: ModelProto, checked: Protected) -> None:
    """A campaign refuses an engine whose row gives other bits elsewhere in the batch."""
    names = [n for node in checked.proto.graph.node for n in node.output if n.endswith((".value", ".sums"))]
    image = np.repeat(some_images(1, 6), 16, axis=0)
    for name, array in values(checked.proto, names, image, ENGINE, "fp32", 16).items():
        if array.dtype == np.float32:
            words = array.view(np.uint32)
            np.testing.assert_array_equal(words, np.broadcast_to(words[:1], words.shape), name)
