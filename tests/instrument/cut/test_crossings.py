"""Cuts of a protected engine's graph: what goes past a cut goes to the alarms alone, and is known with it."""

from __future__ import annotations

from itertools import pairwise

import onnx
import pytest

from testbed.instrument.cut.flow import Flow
from testbed.instrument.cut.stages import Stages
from testbed.instrument.packed import PACKED, packed, with_early_checks
from testbed.instrument.table import site_table
from tests.support.protected import plain_files, protect, tiny_model

CHECKS = dict.fromkeys(("embed", "block.0.attn.residual", "block.0.mlp.fc1", "block.0.mlp.residual", "norm"), 100.0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return plain_files(tiny_model(), tmp_path_factory.mktemp("plain"))["fp32"]


@pytest.fixture(scope="module")
def flow(plain: bytes) -> Flow:
    checks = {site: bound for site, bound in CHECKS.items() if site != "norm"}
    return Flow.of(onnx.load_from_string(packed(protect(plain, clips={"block.0.mlp.gelu": 4.0}, checks=checks))))


def reached_without(flow: Flow, *gone: str) -> set[str]:
    reached = {flow.input} - {*gone}
    for node in flow.nodes:
        if any(name in reached for name in flow.live_inputs(node)):
            reached |= {name for name in node.output if name not in gone}
    return reached


def test_cuts_are_those_of_the_plain_file_and_nothing_goes_past_them(plain: bytes, flow: Flow) -> None:
    own = set(Flow.of(onnx.load_from_string(plain)).articulations())
    assert own < set(flow.crossings)
    for name, beside in flow.crossings.items():
        assert PACKED not in reached_without(flow, name, *beside), name
        if name != PACKED:
            assert "head" not in reached_without(flow, name), name
        for one in beside:  # each is needed: without it there is another way to the output
            left = {other for other in beside if other != one}
            assert PACKED in reached_without(flow, name, *left), (name, one)
    assert flow.crossings["block.0.mlp.residual"] == ("protect.flag.2",)


def test_stages_give_on_what_goes_past_them(flow: Flow, plain: bytes) -> None:
    stages = Stages.of(flow, site_table(plain, "model")).stages
    for before, after in pairwise(stages):
        assert (before.end, before.beside_end) == (after.start, after.beside)
        assert set(after.beside) <= {*before.outputs, *before.inputs}
    assert any(stage.beside for stage in stages)
    assert all(stage.rowed is None for stage in stages if stage.beside or stage.beside_end)


def test_checks_come_at_once_and_nothing_else_is_moved(plain: bytes) -> None:
    model = onnx.load_from_string(packed(protect(plain, checks={"embed": 9.0, "block.0.mlp.fc1": 9.0})))
    late = onnx.ModelProto()
    late.CopyFrom(model)
    nodes = sorted(model.graph.node, key=lambda node: node.output[0].startswith("protect."))  # all checks at the end
    del late.graph.node[:]
    late.graph.node.extend(nodes)
    early = with_early_checks(late)
    order = [node.output[0] for node in early.graph.node]
    assert sorted(order) == sorted(node.output[0] for node in late.graph.node)
    assert order.index("protect.flag.0") < order.index("block.0.attn.q")
    main = [name for name in order if not name.startswith("protect.") and name != "detected"]
    assert main == [node.output[0] for node in nodes if node.output[0] in main]
    onnx.checker.check_model(early)
    unprotected = onnx.load_from_string(plain)
    assert with_early_checks(unprotected) is unprotected
