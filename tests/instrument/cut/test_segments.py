"""Cuts, segments and token restriction: what a segment computes is what the whole file has there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.instrument.cut.flow import CannotCut, Flow
from testbed.instrument.cut.segments import FLAT, FLAT_SHAPE, cut_segment, opaque
from testbed.instrument.cut.stages import Stages
from testbed.instrument.cut.tokens import AxisRows, needs, restricted
from testbed.instrument.ports.feed import PortFeed
from tests.instrument.conftest import CONFIGS

Run = Callable[..., dict[str, NDArray]]
Values = dict[str, NDArray]


@pytest.fixture(params=CONFIGS)
def exported(request: pytest.FixtureRequest, export: Callable[[str], Any]) -> Any:
    return export(request.param)


@pytest.fixture
def flow(exported: Any) -> Flow:
    return Flow.of(onnx.load_from_string(exported.plain))


@pytest.fixture
def stages(exported: Any, flow: Flow) -> Stages:
    return Stages.of(flow, exported.table)


@pytest.fixture
def run(session: Any) -> Run:
    """Models run as they are written, so that only the graph is judged."""

    def run(proto: ModelProto, feeds: Values) -> Values:
        onnx.checker.check_model(proto, full_check=True)
        more = {FLAT: FLAT_SHAPE} if any(v.name == FLAT for v in proto.graph.input) else {}
        found: Values = session(proto.SerializeToString(), optimised=False)({**feeds, **more})
        return found

    return run


@pytest.fixture
def values(exported: Any, flow: Flow, run: Run) -> Values:
    """Every tensor of the file that the batch leads, for the three images of the example."""
    proto = ModelProto()
    proto.CopyFrom(flow.proto)
    led = [name for name in flow.live_order[1:-1] if flow.shapes[name][0] is None and all(flow.shapes[name][1:])]
    proto.graph.output.extend(flow.declared(name) for name in led)
    return {exported.input_name: exported.example} | run(proto, exported.feeds())


def test_a_chain_of_stages_is_the_whole(exported: Any, stages: Stages, run: Run, values: Values) -> None:
    assert len(stages.stages) >= 3
    held = exported.example
    for stage in stages.stages:
        held = run(cut_segment(stages.flow, [stage.start], [stage.end]), {stage.start: held})[stage.end]
        np.testing.assert_array_equal(held, values[stage.end])


def test_a_segment_holds_no_more_than_it_needs(exported: Any, stages: Stages) -> None:
    protos = [cut_segment(stages.flow, [s.start], [s.end]) for s in stages.stages]
    held = [{tensor.name for tensor in proto.graph.initializer} for proto in protos]
    for name, _ in exported.module.named_parameters():
        assert sum(name in some for some in held) == 1, name


def test_what_needs_more_of_the_image_is_refused(first: Any) -> None:
    flow = Flow.of(onnx.load_from_string(first.plain))
    with pytest.raises(CannotCut, match="needed beside"):
        cut_segment(flow, ["block.0.norm1"], ["block.0.mlp.residual"])


def test_a_graph_with_control_flow_is_refused() -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "b", [], [value])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph(nodes, "g", inputs, [value], [numpy_helper.from_array(np.array(True), "c")])
    with pytest.raises(CannotCut, match="control flow"):
        Flow.of(helper.make_model(graph))


def test_opaque_tensors_keep_their_values(exported: Any, flow: Flow, run: Run) -> None:
    sites = {site.tensor: site.shape for site in exported.table if site.where == "activation"}
    found, wanted = (run(proto, exported.feeds()) for proto in (opaque(flow.proto, sites), flow.proto))
    np.testing.assert_array_equal(found["head"], wanted["head"])


def test_no_operator_fuses_over_opaque_tensors(exported: Any, flow: Flow, session: Any) -> None:
    """Optimised, the bits are those of the twin, whose ports no operator fuses over either."""
    sites = {site.tensor: site.shape for site in exported.table if site.where == "activation"}
    model = opaque(flow.proto, sites).SerializeToString()
    found = session(model)({**exported.feeds(), FLAT: FLAT_SHAPE})["head"]
    np.testing.assert_array_equal(found, session(exported.twin)(exported.feeds(PortFeed.idle(3)))["head"])


def test_articulations_are_the_tensors_that_nothing_goes_past(flow: Flow) -> None:
    """Against the definition: with the tensor taken away, the output cannot be reached."""
    found = set(flow.articulations())
    for name in flow.live_order:
        reached = {flow.input} - {name}
        for node in flow.nodes:
            if any(n in reached for n in flow.live_inputs(node)):
                reached |= {n for n in node.output if n != name}
        assert (name in found) == (flow.output not in reached), name


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("pre-norm, unequal blocks", ["embed", "block.0.mlp.residual", "block.1.mlp.residual"]),
        ("post-norm, conv, sinusoidal, mean", ["embed", "block.0.norm2"]),
        ("pruned, no CLS, no positions", ["embed", "block.0.mlp.residual", "block.1.attn.residual"]),
    ],
)
def test_cuts_are_the_residual_stream_between_blocks(name: str, cuts: list[str], export: Any) -> None:
    stages = Stages.of(Flow.of(onnx.load_from_string(export(name).plain)), export(name).table)
    assert [stage.end for stage in stages.stages[:-1]] == cuts


def test_rows_of_a_part_are_the_rows_of_the_whole(stages: Stages, run: Run, values: Values) -> None:
    flow, chosen, tested = stages.flow, [3, 1], 0
    for stage in stages.stages:
        parts = [stage.rowed.front, stage.rowed.middle, stage.rowed.tail] if stage.rowed else []
        for part in filter(None, parts):
            places = flow.between([*part.inputs], [*part.outputs])
            few = restricted(flow, places, [*part.inputs], dict(part.outputs), len(chosen))
            feeds = {
                name: values[name] if need is None else np.take(values[name], chosen, need.axis)
                for name, need in part.inputs.items()
            }
            found = run(few.proto, feeds)
            for name, need in part.outputs.items():
                wanted = np.take(values[name], chosen, need.axis)
                np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
                tested += 1
    assert tested


def test_only_the_first_token_is_computed_where_the_head_looks_at_it_alone(first: Any, run: Run) -> None:
    flow = Flow.of(onnx.load_from_string(first.plain))
    stages = Stages.of(flow, first.table)
    assert stages.last_rows == (0,)
    start = stages.stages[-2].start
    few = restricted(flow, flow.between([start], ["head"]), [start], {"head": None}, [0, 0])
    assert few.shapes["block.1.mlp.fc1"] == (2, 6)
    (stream,) = run(cut_segment(flow, ["image"], [start]), first.feeds()).values()
    wanted = run(flow.proto, first.feeds())["head"]
    np.testing.assert_allclose(run(few.proto, {start: stream})["head"], wanted, rtol=1e-5, atol=1e-6)


def test_what_is_needed_in_full_and_in_rows_is_refused_where_nobody_picks(first: Any) -> None:
    flow = Flow.of(onnx.load_from_string(first.plain))
    places = flow.between(["embed"], ["block.0.attn.residual"])
    with pytest.raises(CannotCut, match="in full and in rows"):
        restricted(flow, places, ["embed"], {"block.0.attn.residual": AxisRows(1)}, 2)


def test_elements_that_are_not_needed_change_nothing(exported: Any, flow: Flow, run: Run, values: Values) -> None:
    """Against the engine: every tensor is disturbed outside of the rows that reach the output, and inside."""
    found = needs(flow, range(len(flow.nodes)), {flow.output: None}).tensors
    checked = 0
    for name, need in found.items():
        if name not in values or need is None or need.axis == 0:
            continue
        assert need.which is not None
        outside = [row for row in range(values[name].shape[need.axis]) if row not in need.which]
        for rows, moves in ((outside, False), (sorted(need.which), True)):
            disturbed = np.moveaxis(values[name].copy(), need.axis, 0)
            disturbed[rows] += np.random.default_rng(0).standard_normal(disturbed[rows].shape, np.float32)
            feeds = {exported.input_name: exported.example, name: np.moveaxis(disturbed, 0, need.axis)}
            output = run(_replaced(flow, name), feeds)[flow.output]
            assert np.array_equal(output, values[flow.output]) is not moves, name
        checked += 1
    assert checked or exported.module.config.pooling == "mean"


def _replaced(flow: Flow, name: str) -> ModelProto:
    """The file with a tensor as a further input, instead of what its node makes."""
    proto = ModelProto()
    proto.CopyFrom(flow.proto)
    for node in proto.graph.node:
        node.output[:] = [f"{n}/not_used" if n == name else n for n in node.output]
    proto.graph.input.append(flow.declared(name))
    del proto.graph.value_info[:]
    return proto
