"""Branches and loops: refused by name where images decide which way they go, else taken, with faults as in any file.

Oracle: the plain graph in which the faulty tensor is given from outside; images that make a refused file go another way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from testbed.core.errors import TestbedError
from testbed.core.site import SiteTable
from testbed.instrument.adopt.file import adopt
from testbed.instrument.ports.feed import GATED_REPLACE, NO_SITE, PortFeed, to_words
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import deployment_id

_BOOL, _INT, _FLOAT = TensorProto.BOOL, TensorProto.INT64, TensorProto.FLOAT
ROWS = np.array([[1, 2, 3, 4], [-1, -2, 3, 5], [0.1, 0.2, 0.1, 0.1]], np.float32)


def value(name: str, kind: int = _FLOAT, shape: list[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes: list[NodeProto], given: list[Any], results: list[Any]) -> GraphProto:
    return helper.make_graph(nodes, "body", given, results)


def model(nodes: list[NodeProto], **stored: Any) -> ModelProto:
    """x (B, 4) -> "a" = tanh(x), then these nodes -> "c", then out = c + c."""
    ends = [helper.make_node("Tanh", ["x"], ["a"]), *nodes, helper.make_node("Add", ["c", "c"], ["out"])]
    weights = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    whole = helper.make_graph(ends, "g", [value("x", shape=["B", 4])], [value("out", shape=["B", 4])], weights)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def branches(condition: str, name: str = "choose") -> NodeProto:
    """c = relu(a) or -a."""
    yes = graph([helper.make_node("Relu", ["a"], ["yes"])], [], [value("yes")])
    no = graph([helper.make_node("Neg", ["a"], ["no"])], [], [value("no")])
    return helper.make_node("If", [condition], ["c"], name=name, then_branch=yes, else_branch=no)


def loop(trips: str, nodes: list[NodeProto] | None = None, condition: str = "on") -> NodeProto:
    """c = sin(sin(... a)). nodes: that make another condition."""
    body = graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["h"], ["g"]), *(nodes or [])],
        [value("i", _INT, []), value("go", _BOOL, []), value("h")],
        [value(condition, _BOOL, []), value("g")],
    )
    return helper.make_node("Loop", [trips, "true", "a"], ["c"], name="again", body=body)


def scan(over: str) -> list[NodeProto]:
    """c = a + the sum over the rows of a (4, ...) tensor."""
    body = graph(
        [helper.make_node("ReduceSum", ["row"], ["part"], keepdims=0), helper.make_node("Add", ["h", "part"], ["g"])],
        [value("h"), value("row")],
        [value("g")],
    )
    return [helper.make_node("Scan", ["a", over], ["c"], name="along", body=body, num_scan_inputs=1)]


def size_is_four() -> list[NodeProto]:
    return [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["width"]),
        helper.make_node("Equal", ["width", "four"], ["wide"]),
    ]


def sum_is_positive(source: str = "a") -> list[NodeProto]:
    return [
        helper.make_node("ReduceSum", [source], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["wide"]),
    ]


NUMBERS = {"one": np.int64(1), "four": np.int64(4), "zero": np.float32(0), "true": np.array(True), "three": np.int64(3)}


def a_count(source: str = "a") -> list[NodeProto]:
    """How many of its numbers are not nothing, by way of a shape."""
    return [
        helper.make_node("Relu", [source], ["kept"]),
        helper.make_node("NonZero", ["kept"], ["places"]),
        helper.make_node("Shape", ["places"], ["found"]),
        helper.make_node("Gather", ["found", "one"], ["count"]),
    ]


def in_a_loop() -> list[NodeProto]:
    """A branch inside a loop, by what the loop carries."""
    inner = [
        helper.make_node("ReduceSum", ["h"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["p"]),
        helper.make_node(
            "If",
            ["p"],
            ["chosen"],
            name="inner",
            then_branch=graph([helper.make_node("Identity", ["h"], ["y1"])], [], [value("y1")]),
            else_branch=graph([helper.make_node("Neg", ["h"], ["y2"])], [], [value("y2")]),
        ),
    ]
    return [loop("three", inner)]


STEERED: dict[str, tuple[Callable[[], list[NodeProto]], str]] = {
    "a branch by a sum": (lambda: [*sum_is_positive(), branches("wide")], "If 'choose'"),
    "a branch by a weight": (lambda: [*sum_is_positive("weight"), branches("wide")], "If 'choose'"),
    "a branch by a count": (
        lambda: [*a_count(), helper.make_node("Equal", ["count", "four"], ["wide"]), branches("wide")],
        "If 'choose'",
    ),
    "as many turns as a count": (lambda: [*a_count(), loop("count")], "Loop 'again'"),
    "until it is small": (
        lambda: [
            loop(
                "three",
                [
                    helper.make_node("ReduceMax", ["g"], ["m"], keepdims=0),
                    helper.make_node("Greater", ["m", "zero"], ["stay"]),
                ],
                "stay",
            )
        ],
        "Loop 'again'",
    ),
    "a branch inside a loop": (in_a_loop, "If 'inner'"),
    "along a part of that length": (
        lambda: [
            *a_count(),
            helper.make_node("Unsqueeze", ["count", "first"], ["length"]),
            helper.make_node("ConstantOfShape", ["length"], ["long"]),
            *scan("long"),
        ],
        "Scan 'along'",
    ),
}

PLAIN: dict[str, Callable[[], list[NodeProto]]] = {
    "a branch by a size": lambda: [*size_is_four(), branches("wide")],
    "a branch by a constant": lambda: [branches("true")],
    "so many turns": lambda: [loop("three")],
    "along a weight": lambda: scan("weight"),
}


def made(nodes: list[NodeProto]) -> ModelProto:
    return model(nodes, **NUMBERS, weight=np.ones((4, 2), np.float32), first=np.array([0]))


@pytest.mark.parametrize("kind", STEERED)
def test_a_way_that_images_decide_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    nodes, named = STEERED[kind]
    onnx.save(made(nodes()), tmp_path / "odd.onnx")
    ort.InferenceSession(tmp_path / "odd.onnx").run(None, {"x": ROWS})  # it is a file that runs
    with pytest.raises(
        TestbedError, match=rf"odd\.onnx: which way its {named} goes depends on .*; export the model"
    ) as raised:
        adopt(tmp_path / "odd.onnx")
    assert "\n" not in str(raised.value)


def test_in_such_a_file_one_image_changes_anothers_output() -> None:
    """What the refusal is for."""
    session = ort.InferenceSession(made(STEERED["a branch by a sum"][0]()).SerializeToString())
    other = ROWS.copy()
    other[0] = -9
    (first,), (second,) = (session.run(None, {"x": rows}) for rows in (ROWS, other))
    assert not np.array_equal(first[1], second[1])


@pytest.mark.parametrize("kind", PLAIN)
def test_a_way_that_sizes_decide_is_taken_and_struck(kind: str, session: Any, tmp_path: Path) -> None:
    proto = made(PLAIN[kind]())
    onnx.save(proto, tmp_path / "odd.onnx")
    adopted = adopt(tmp_path / "odd.onnx")
    table = SiteTable("odd", deployment_id(adopted.plain), GATED_REPLACE, catalogue(adopted.plain).others)
    twin = session(instrument(adopted.plain, table).SerializeToString(), optimised=False)
    idle = twin({"x": ROWS, **PortFeed.idle(3).as_inputs(table)})["out"]
    np.testing.assert_array_equal(idle, session(adopted.plain, optimised=False)({"x": ROWS})["out"])
    proto.graph.output.append(value("a", shape=["B", 4]))
    a = session(proto.SerializeToString(), optimised=False)({"x": ROWS})["a"].copy()
    golden, none = to_words(a[:, 2]), np.zeros(3, np.uint32)
    port = np.array([NO_SITE, table.ports["a"], NO_SITE])
    feed = PortFeed(port, np.full(3, 2), ~none, none, none | np.uint32(1 << 23), golden)
    faulty = twin({"x": ROWS, **feed.as_inputs(table)})["out"]
    given = made(PLAIN[kind]())
    del given.graph.node[0]
    given.graph.input.append(value("a", shape=["B", 4]))
    a[1, 2:3] = (a[1, 2:3].view(np.uint32) ^ np.uint32(1 << 23)).view(np.float32)
    wanted = session(given.SerializeToString(), optimised=False)({"x": ROWS, "a": a})["out"]
    np.testing.assert_array_equal(faulty, wanted)
    assert not np.array_equal(faulty[1], idle[1])
