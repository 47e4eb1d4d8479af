"""Canaries find a guard, a vote, a copy and a check that does not do what it is there for; each is broken here on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from testbed.core.errors import GateFailed
from testbed.core.protected import DETECTED, PREFIX
from testbed.export.precision import Calibration, cast_model
from testbed.export.target import export_target
from testbed.models.vit import ViT
from testbed.protect.build import Protected, protect
from testbed.protect.canaries.fly import Canary, fly
from testbed.protect.contract import CalibrationSet, ProtectionPass
from testbed.protect.passes.checksum import ChecksumPass
from testbed.protect.passes.duplicate import DuplicatePass
from testbed.protect.passes.nonfinite import NonfinitePass
from testbed.protect.passes.range import RangePass
from tests.protect.conftest import some_images

ENGINES = ("ort-cpu", "openvino")
PARTS = ("block.0.attn", "block.1.mlp")


def changed(proto: ModelProto, change: Callable[[ModelProto], object]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    change(copy)
    return copy


def set_initializers(proto: ModelProto, start: str, end: str, value: float) -> None:
    chosen = [t for t in proto.graph.initializer if t.name.startswith(start) and t.name.endswith(end)]
    assert chosen
    for tensor in chosen:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, value), tensor.name))


def flown(file: Protected, engine: str = "ort-cpu", precision: str = "fp32", proto: ModelProto | None = None) -> Canary:
    return fly(file.proto if proto is None else proto, file.applied, some_images(1, 4), engine, precision)


@pytest.fixture(scope="module")
def guarded(plain: ModelProto, calibration: CalibrationSet) -> Protected:
    return protect(plain, [RangePass(("*", "!head"))], calibration)


@pytest.fixture(scope="module")
def voted(plain: ModelProto, calibration: CalibrationSet) -> Protected:
    return protect(plain, [DuplicatePass(PARTS, vote=True)], calibration)


@pytest.fixture(scope="module")
def doubled(plain: ModelProto, calibration: CalibrationSet) -> Protected:
    return protect(plain, [DuplicatePass(PARTS)], calibration)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_guard_vote_and_copy_is_flown(
    guarded: Protected, voted: Protected, doubled: Protected, engine: str
) -> None:
    of_guards, of_votes, of_copies = (flown(file, engine) for file in (guarded, voted, doubled))
    assert (of_guards.guards, of_guards.activations) == (len(guarded.applied[0].places), 0)
    assert (of_votes.votes, of_copies.activations) == (len(PARTS), len(PARTS))


@pytest.mark.parametrize(("end", "value"), [(".high", np.inf), (".low", -np.inf), (".high", 1e6)])
def test_a_guard_that_lets_a_value_through_is_refused(guarded: Protected, end: str, value: float) -> None:
    start = f"{PREFIX}range.block.1.attn.v"
    endless = changed(guarded.proto, lambda proto: set_initializers(proto, start, end, value))
    with pytest.raises(GateFailed, match=r"the guard of block\.1\.attn\.v makes .* of a value out of range"):
        flown(guarded, proto=endless)


def test_a_guard_without_bounds_is_refused(guarded: Protected) -> None:
    (done,) = guarded.applied
    places = (replace(done.places[0], high=float("inf")), *done.places[1:])
    with pytest.raises(GateFailed, match="has no bounds"):
        fly(guarded.proto, [replace(done, places=places)], some_images(1, 4), "ort-cpu", "fp32")


def test_a_guard_that_keeps_nan_where_it_must_not_is_refused(plain: ModelProto, calibration: CalibrationSet) -> None:
    kept = protect(plain, [RangePass(("norm",), 1.3, "keep")], calibration)
    assert flown(kept).guards == 1
    (done,) = kept.applied
    asked = replace(done, settings={**done.settings, "nan": "zero"})
    with pytest.raises(GateFailed, match="the guard of norm makes nan of a value out of range, not 0"):
        fly(kept.proto, [asked], some_images(1, 4), "ort-cpu", "fp32")


def test_what_is_computed_past_a_guard_is_found(guarded: Protected) -> None:
    def past(proto: ModelProto) -> None:
        taker = next(node for node in proto.graph.node if f"{PREFIX}range.block.1.norm2" in node.input)
        taker.input[:] = [name.removeprefix(f"{PREFIX}range.") for name in taker.input]

    with pytest.raises(GateFailed, match=r"computed from block\.1\.norm2 past its guard"):
        flown(guarded, proto=changed(guarded.proto, past))


@pytest.mark.parametrize("copy", ["first", "second", "third"])
def test_a_vote_that_takes_one_copy_is_refused(voted: Protected, copy: str) -> None:
    ends = {
        "first": "block.0.attn.proj",
        **{name: f"{PREFIX}duplicate.{n}.block.0.attn.block.0.attn.proj" for n, name in ((1, "second"), (2, "third"))},
    }

    def one_alone(proto: ModelProto) -> None:
        vote = next(node for node in proto.graph.node if node.output[0] == f"{PREFIX}duplicate.block.0.attn.voted")
        vote.input[1:] = [ends[copy]] * 2

    with pytest.raises(GateFailed, match=r"the vote of block\.0\.attn takes on a fault in"):
        flown(voted, proto=changed(voted.proto, one_alone))


def test_copies_that_are_one_are_refused(voted: Protected) -> None:
    """The second copy's end is computed from the first copy: as if an engine had merged the two."""

    def merged(proto: ModelProto) -> None:
        first, second = (f"{PREFIX}duplicate.{number}.block.1.mlp." for number in (1, 2))
        last = next(node for node in proto.graph.node if node.output[0] == f"{second}block.1.mlp.fc2")
        last.input[:] = [name.replace(second, first) for name in last.input]

    with pytest.raises(
        GateFailed, match=r"duplicate\.2\.block\.1\.mlp\..* does not reach the end of its copy|takes on"
    ):
        flown(voted, proto=changed(voted.proto, merged))


def test_a_comparison_of_a_copy_with_itself_is_refused(doubled: Protected) -> None:
    def with_itself(proto: ModelProto) -> None:
        node = next(node for node in proto.graph.node if node.output[0].endswith("block.1.mlp.difference"))
        node.input[1] = node.input[0]

    with pytest.raises(GateFailed, match=r"the check block\.1\.mlp does not see a fault in block\.1\.mlp\.fc2"):
        flown(doubled, proto=changed(doubled.proto, with_itself))


def test_a_deaf_check_is_found_though_others_hear(plain: ModelProto, calibration: CalibrationSet) -> None:
    """A loud value early in the network raises every later alarm; the check that is meant has to raise its own."""
    checked = protect(plain, [ChecksumPass()], calibration)
    number = [p.name for p in checked.applied[0].places if "block.0." in p.name].index("block.0.mlp.fc1")

    def deafen(proto: ModelProto) -> None:
        for end, value in ((".low", -np.inf), (".high", np.inf)):
            name = f"{PREFIX}checksum.block.0{end}"
            tensor = next(t for t in proto.graph.initializer if t.name == name)
            bounds = numpy_helper.to_array(tensor).copy()
            bounds[number] = value
            tensor.CopyFrom(numpy_helper.from_array(bounds, name))

    with pytest.raises(GateFailed, match=r"the check block\.0\.mlp\.fc1 does not see a fault"):
        flown(checked, proto=changed(checked.proto, deafen))


def test_an_alarm_of_another_image_is_refused(doubled: Protected) -> None:
    def for_all(proto: ModelProto) -> None:
        node = next(node for node in proto.graph.node if node.output[0] == DETECTED)
        above = node.input[0]
        proto.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "all_images"))
        reduce = node.__class__(op_type="ReduceMax", input=[above, "all_images"], output=["any_image"])
        add = node.__class__(op_type="Add", input=[above, "any_image"], output=["for_all"])
        proto.graph.node.remove(node)
        node.input[0] = "for_all"
        proto.graph.node.extend([reduce, add, node])

    with pytest.raises(GateFailed, match="raises the alarm of another"):
        flown(doubled, proto=changed(doubled.proto, for_all))


def test_flags_of_nan_alone_pass(plain: ModelProto, calibration: CalibrationSet) -> None:
    """1e30 is finite: these flags are flown with NaN and infinity."""
    flagged = protect(plain, [NonfinitePass()], calibration)
    assert flown(flagged).activations == len(flagged.applied[0].places)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("engine", ENGINES)
def test_narrow_formats_are_flown_too(
    plain: ModelProto, small_model: ViT, tmp_path_factory: pytest.TempPathFactory, precision: str, engine: str
) -> None:
    if precision == "fp16":
        file = cast_model(plain, "fp16")
    else:
        folder, settings = tmp_path_factory.mktemp("int8"), Calibration(64)
        path, images = folder / "plain.onnx", some_images(64, 1)
        file = export_target(small_model, "model", path, precision="int8", images=images, calibration=settings)
    seen = CalibrationSet(some_images(96, 1), (engine,), precision)
    passes: list[ProtectionPass] = [RangePass(), DuplicatePass(PARTS, vote=True)]
    canary = flown(protect(file, passes, seen), engine, precision)
    assert canary.votes == len(PARTS)
    assert canary.guards >= 2
    flags: list[ProtectionPass] = [DuplicatePass(PARTS), NonfinitePass()]
    assert flown(protect(file, flags, seen), engine, precision).activations > len(PARTS)
