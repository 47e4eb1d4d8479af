"""Files with control flow: loops that end are read as ever, one that does not is refused by name, and in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, NodeProto, TensorProto, helper

from testbed.cli.main import cli
from testbed.core.errors import EngineError, TestbedError
from testbed.instrument import probe
from testbed.instrument.adopt.file import adopt
from testbed.instrument.probe import Endless, control_flow, open_probe
from testbed.instrument.sites.catalogue import catalogue

_BOOL, _INT, _FLOAT = TensorProto.BOOL, TensorProto.INT64, TensorProto.FLOAT


def value(name: str, kind: int, shape: list[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [] if shape is None else shape)


def loop(trips: int | None, name: str = "spin", opset: int = 20) -> ModelProto:
    """out = in + in, again and again: so often, or as long as the condition holds, and it always does."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Tanh", ["x"], ["y"])],
        "body",
        [value("i", _INT), value("go", _BOOL), value("x", _FLOAT, ["batch", 4])],
        [value("on", _BOOL), value("y", _FLOAT, ["batch", 4])],
    )
    limit = [] if trips is None else [helper.make_tensor("trips", _INT, [], [trips])]
    nodes = [helper.make_node("Loop", ["trips" if limit else "", "true", "in"], ["out"], name=name, body=body)]
    return model(nodes, [*limit, helper.make_tensor("true", _BOOL, [], [True])], opset)


def model(nodes: list[NodeProto], stored: list[TensorProto], opset: int = 20) -> ModelProto:
    first, last = ([value(name, _FLOAT, ["batch", 4])] for name in ("in", "out"))
    graph = helper.make_graph(nodes, "graph", first, last, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def in_a_branch() -> ModelProto:
    """The endless loop inside an If that is taken for three images and more."""
    inner = loop(None, "deep").graph
    taken = helper.make_graph(
        [helper.make_node("Loop", ["", "true", "in"], ["found"], name="deep", body=inner.node[0].attribute[0].g)],
        "taken",
        [],
        [value("found", _FLOAT, ["batch", 4])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["in"], ["same"])], "other", [], [value("same", _FLOAT, ["batch", 4])]
    )
    nodes = [
        helper.make_node("Shape", ["in"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Greater", ["rows", "two"], ["many"]),
        helper.make_node("If", ["many"], ["out"], name="choose", then_branch=taken, else_branch=other),
    ]
    numbers = [helper.make_tensor(name, _INT, [], [number]) for name, number in (("zero", 0), ("two", 2))]
    return model(nodes, [*numbers, helper.make_tensor("true", _BOOL, [], [True])])


def plain() -> ModelProto:
    return model([helper.make_node("Relu", ["in"], ["out"])], [])


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[ModelProto], Path]:
    def save(proto: ModelProto) -> Path:
        onnx.save(proto, str(tmp_path / "file.onnx"))
        return tmp_path / "file.onnx"

    return save


@pytest.mark.parametrize(("make", "named"), [(lambda: loop(None), "Loop 'spin'"), (in_a_branch, "If 'choose'")])
def test_a_loop_that_never_ends_is_refused_by_name(
    make: Callable[[], ModelProto],
    named: str,
    saved: Callable[[ModelProto], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(probe, "RUN_S", 1.0)
    file, begun = saved(make()), time.monotonic()
    done = CliRunner().invoke(cli, ["instrument", str(file), "--sites", "all", "--to", str(tmp_path / "to")])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {file}: its {named} does not end well (no answer after 1 s in run); ")
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - begun < 40
    assert not (tmp_path / "to").exists()


def test_a_loop_that_ends_is_run_to_its_end(saved: Callable[[ModelProto], Path]) -> None:
    images = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    with open_probe(loop(5), "test") as runner:
        found = runner.run({"in": images})["out"]
    wanted = images
    for _ in range(5):
        wanted = np.tanh(wanted)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    (site,) = catalogue(adopt(saved(loop(5))).plain).others
    assert (site.tensor, site.shape) == ("out", (4,))


def test_only_control_flow_costs_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "Isolated", lambda *_: pytest.fail("a process of its own"))
    with open_probe(plain(), "test") as runner:
        assert (runner.run({"in": -np.ones((2, 4), np.float32)})["out"] == 0).all()


def test_control_flow_is_found_at_every_depth_and_in_functions() -> None:
    assert list(control_flow(plain())) == []
    assert list(control_flow(in_a_branch())) == ["If 'choose'", "Loop 'deep'"]
    proto = plain()
    function = proto.functions.add()
    function.node.extend(loop(None).graph.node)
    assert list(control_flow(proto)) == ["Loop 'spin'"]


def test_what_the_engine_says_in_the_other_process_is_said_here() -> None:
    with open_probe(loop(2), "test") as runner, pytest.raises(EngineError, match="in"):
        runner.run({"in": np.zeros((2, 3, 4), np.float32)})
    wrong = loop(2)
    wrong.graph.node[0].input[2] = "nowhere"
    with pytest.raises(EngineError, match="nowhere"):
        open_probe(wrong, "test")


def test_an_engine_that_ends_its_process_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "open_here", _ends)
    with pytest.raises(Endless, match=r"Loop 'spin' does not end well \(.*SIGABRT"):
        open_probe(loop(2), "test")


def _ends(model: bytes, purpose: str) -> None:
    import os

    os.abort()


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([("Relu", ["in"], ["out"]), ("Tanh", ["in"], ["out"])], "SSA"),  # two nodes of one name
        ([("Relu", ["in"], ["in"]), ("Tanh", ["in"], ["out"])], "SSA"),
        ([("Relu", ["out"], ["out"])], "not valid ONNX"),
        ([("Relu", ["in", "in", "in"], ["out"])], "not valid ONNX"),
        ([("", ["in"], ["out"])], "not valid ONNX"),
    ],
)
def test_what_the_checker_objects_to_is_one_line(
    nodes: list[tuple[str, list[str], list[str]]], why: str, saved: Callable[[ModelProto], Path]
) -> None:
    file = saved(model([helper.make_node(*node) for node in nodes], []))
    with pytest.raises(TestbedError, match=why) as raised:
        adopt(file)
    assert len(str(raised.value).splitlines()) == 1
