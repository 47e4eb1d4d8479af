"""Protection that is broken on purpose, in the ways that were seen: a gate finds each before anything is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from testbed.core.errors import GateFailed, UsageError
from testbed.core.protected import DETECTED, PREFIX
from testbed.data import load
from testbed.protect.build import Protected, protect
from testbed.protect.canaries.fly import Canary, fly
from testbed.protect.checks import products
from testbed.protect.checks.alarmed import alarmed_checks
from testbed.protect.checks.followed import followed
from testbed.protect.checks.relation import Relation, Term
from testbed.protect.checks.sums import Vectors
from testbed.protect.contract import CalibrationSet, ProtectionPass
from testbed.protect.ensure import ensure
from testbed.protect.graph import GraphEditor
from testbed.protect.passes import duplicate
from testbed.protect.passes.checksum import ChecksumPass
from testbed.protect.passes.duplicate import DuplicatePass
from testbed.protect.passes.nonfinite import NonfinitePass
from tests.protect.conftest import some_images

ENGINE = "ort-cpu"
HEAD = f"{PREFIX}checksum.end"


def edited(protected: Protected, edit: Callable[[ModelProto], None]) -> Protected:
    proto = ModelProto()
    proto.CopyFrom(protected.proto)
    edit(proto)
    return Protected(proto, protected.applied)


def flown(protected: Protected) -> Canary:
    return fly(protected.proto, protected.applied, some_images(1, 4), ENGINE, "fp32")


def made(proto: ModelProto, tensor: str) -> NodeProto:
    return next(node for node in proto.graph.node if tensor in node.output)


def test_a_check_of_constants_is_folded_away_and_found(plain: ModelProto, calibration: CalibrationSet) -> None:
    """What is compared no longer comes from the image: the engine does it once, when the file is loaded."""
    protected = protect(plain, [ChecksumPass(("head",))], calibration)
    flown(protected)

    def fold(proto: ModelProto) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros((8, 1), np.float32), "protect.nothing"))
        for end in ("above", "below"):
            made(proto, f"{HEAD}.{end}").input[0] = "protect.nothing"

    with pytest.raises(GateFailed, match="the check head does not see a fault in head: the engine has folded it away"):
        flown(edited(protected, fold))


def test_a_copy_that_an_engine_merges_is_found(plain: ModelProto, calibration: CalibrationSet) -> None:
    """Of the same weights: common subexpressions, of which ONNX Runtime keeps one."""
    protected = protect(plain, [DuplicatePass(("block.0.mlp",))], calibration)
    copies = f"{PREFIX}duplicate.1.block.0.mlp."

    def share(proto: ModelProto) -> None:
        stored = {tensor.name for tensor in proto.graph.initializer}
        for node in proto.graph.node:
            own = [name.removeprefix(copies) if name in stored else name for name in node.input]
            node.input[:] = own

    images = load("digits").test.chosen(16, 0, "unseen")
    with pytest.raises(
        GateFailed, match=r"duplicate: ONNX Runtime (merges a part with its copy|keeps 0 of the 2 products)"
    ):
        ensure(plain, edited(protected, share), images, (ENGINE,), "fp32")


def test_a_copy_without_weights_of_its_own_is_not_made(
    plain: ModelProto, calibration: CalibrationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicate, "is_copied_weight", lambda tensor: False)
    with pytest.raises(UsageError, match="has no weight of its own: engines would merge its copy with it"):
        protect(plain, [DuplicatePass(("block.0.mlp",))], calibration)


@pytest.mark.parametrize("step", [ChecksumPass(("head",)), NonfinitePass(("head",))])
def test_a_threshold_that_never_fires_is_found(
    plain: ModelProto, calibration: CalibrationSet, step: ProtectionPass
) -> None:
    protected = protect(plain, [step], calibration)

    def widen(proto: ModelProto) -> None:
        for tensor in proto.graph.initializer:
            for end, size in ((".low", -np.inf), (".high", np.inf)):
                if tensor.name.startswith(PREFIX) and tensor.name.endswith(end):
                    tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims[0], size, np.float32), tensor.name))

    with pytest.raises(GateFailed, match="the check head does not see a fault in head"):
        flown(edited(protected, widen))


def test_a_checksum_of_the_weight_that_runs_follows_its_fault_and_is_found(
    plain: ModelProto, calibration: CalibrationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of the weight as it is in memory: a fault in it is in both sides of the check."""
    real = products.product

    def following(graph: GraphEditor, node: NodeProto) -> Relation:
        relation = real(graph, node)
        if relation.name != "block.0.mlp.fc1":
            return relation
        output = followed(graph, node.output[0])

        def terms(vectors: Vectors) -> list[Term]:
            name = f"{vectors.prefix}.follows"
            product = vectors.graph.add("MatMul", [vectors.tokens(node.input[0]), node.input[1]], name)
            width = graph.flow.per_image(node.output[0])[-1]
            own = vectors.product_of(product, (1, width))
            return [Term(vectors.total(end), 1.0) for end in output.tensors] + [Term(own, -1.0)]

        return Relation(
            relation.name, "product", relation.covers, lambda _: None, terms, output.constant, relation.statistics
        )

    monkeypatch.setitem(ChecksumPass.call.__globals__["_MAKERS"], "MatMul", following)
    protected = protect(plain, [ChecksumPass(("block.0.mlp.fc1",))], calibration)
    with pytest.raises(GateFailed, match=r"no check sees a fault in block\.0\.mlp\.fc1\.weight"):
        flown(protected)


def test_alarms_that_mix_the_images_of_a_batch_are_found(plain: ModelProto, calibration: CalibrationSet) -> None:
    protected = protect(plain, [ChecksumPass(("head",))], calibration)

    def mix(proto: ModelProto) -> None:
        cast = made(proto, DETECTED)
        alarm = cast.input[0]
        proto.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "protect.batch"))
        proto.graph.node.extend(
            [
                helper.make_node("ReduceMax", [alarm, "protect.batch"], ["protect.any"], keepdims=1),
                helper.make_node("Max", [alarm, "protect.any"], ["protect.mixed"]),
                helper.make_node("Cast", ["protect.mixed"], [DETECTED], to=cast.attribute[0].i),
            ]
        )
        proto.graph.node.remove(cast)

    with pytest.raises(GateFailed, match="a fault in one image raises the alarm of another"):
        flown(edited(protected, mix))


def test_a_false_alarm_is_named_with_its_check(plain: ModelProto, calibration: CalibrationSet) -> None:
    protected = protect(plain, [ChecksumPass(), DuplicatePass(("block.1.mlp",))], calibration)
    names = [place.name for done in protected.applied if done.name == "checksum" for place in done.places]
    group = [name for name in names if name.startswith("block.0.")]
    assert alarmed_checks(protected.proto, protected.applied, some_images(6, 8), ENGINE, "fp32") == {}

    def narrow(proto: ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name == f"{PREFIX}checksum.block.0.high":
                highs = numpy_helper.to_array(tensor).copy()
                highs[3] = -1e30
                tensor.CopyFrom(numpy_helper.from_array(highs, tensor.name))

    deaf = edited(protected, narrow)
    alarms = alarmed_checks(deaf.proto, deaf.applied, some_images(6, 8), ENGINE, "fp32")
    (told,) = alarms
    assert told.startswith(f"checksum {group[3]} (")
    assert alarms[told] == 6
