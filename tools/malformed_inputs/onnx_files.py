"""ONNX files: damaged bytes, and well-formed protobuf that says absurd things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from malformed_inputs.case import Base, Case
from malformed_inputs.values import HOSTILE, damaged

_SPEC = """
name = "foreign"
[data]
name = "digits"
[model]
onnx = "model.onnx"
[tiers]
edges = [0.5, 1.0]
images = [3, 3]
[gates]
zero_fault_rows = 64
allow_chance_accuracy = true
[[faults]]
target = "model"
where = "activation"
ops = ["flip"]
bits = [30]
per_stratum = 1
"""
_NUMBERS = (0, 1, 2, 3, -1, -5, 7, 2**31, 2**40, 2**62, -(2**62), 10**9)


def cases(base: Base, rng: np.random.Generator) -> Iterator[Case]:
    content = base.onnx.read_bytes()
    names = list(EDITS)
    while True:
        if rng.random() < 0.35:
            name, changed = damaged(content, rng)
        else:
            name = names[int(rng.integers(len(names)))]
            proto = onnx.load_from_string(content)
            EDITS[name](proto, rng)
            try:
                changed = proto.SerializeToString()
            except Exception:  # protobuf itself refuses it: no such file can be
                continue
        campaign = rng.random() < 0.15
        yield Case("onnx", f"{name}{', campaign' if campaign else ''}", partial(_lay_out, changed, campaign))


def _lay_out(content: bytes, campaign: bool, folder: Path) -> list[str]:
    (folder / "model.onnx").write_bytes(content)
    if not campaign:
        return ["instrument", "model.onnx", "--to", "twin"]
    (folder / "spec.toml").write_text(_SPEC)
    return ["campaign", "run", "spec.toml", "--run", "run", "--dry-run"]


def _pick(items, rng):  # type: ignore[no-untyped-def]
    return items[int(rng.integers(len(items)))]


def _number(rng: np.random.Generator) -> int:
    return int(_pick(_NUMBERS, rng))


def _input_shape(proto: ModelProto, rng: np.random.Generator) -> None:
    dims = _pick([*proto.graph.input, *proto.graph.output], rng).type.tensor_type.shape.dim
    if dims:
        _pick(dims, rng).dim_value = _number(rng)


def _initializer_shape(proto: ModelProto, rng: np.random.Generator) -> None:
    tensor = _pick(proto.graph.initializer, rng)
    if tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _number(rng)
    else:
        tensor.dims.append(_number(rng))


def _initializer_type(proto: ModelProto, rng: np.random.Generator) -> None:
    _pick(proto.graph.initializer, rng).data_type = int(rng.integers(0, 30))


def _initializer_values(proto: ModelProto, rng: np.random.Generator) -> None:
    tensor = _pick(proto.graph.initializer, rng)
    array = np.array(numpy_helper.to_array(tensor))
    array[...] = _pick([0, -1, 127], rng) if array.dtype.kind in "iub" else _pick([np.nan, np.inf, 3e38, 0], rng)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _external(proto: ModelProto, rng: np.random.Generator) -> None:
    tensor = _pick(proto.graph.initializer, rng)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", _pick(["../../etc/passwd", "/etc/passwd", "gone.bin", "", HOSTILE, "model.onnx"], rng)),
        ("offset", str(_pick([0, -1, 2**62, "x"], rng))),
        ("length", str(_pick([0, -1, 2**62, 4], rng))),
    ):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _rename(proto: ModelProto, rng: np.random.Generator) -> None:
    old, new = _pick(proto.graph.node, rng).output[0], _pick([HOSTILE, "", "../x", "a" * 5000, "image"], rng)
    for node in proto.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _op_type(proto: ModelProto, rng: np.random.Generator) -> None:
    node = _pick(proto.graph.node, rng)
    node.op_type = _pick(["Nope", "Softmax", "Add", "Loop", "If", "Scan", "Cast", "Sequence", HOSTILE, ""], rng)
    if rng.random() < 0.3:
        node.domain = _pick(["com.microsoft", "evil", HOSTILE], rng)


def _attribute(proto: ModelProto, rng: np.random.Generator) -> None:
    having = [node for node in proto.graph.node if node.attribute]
    if not having:
        return
    attribute = _pick(_pick(having, rng).attribute, rng)
    attribute.i, attribute.f = _number(rng), float(_pick([np.nan, np.inf, -1.0, 1e308], rng))
    if attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = _number(rng)


def _wiring(proto: ModelProto, rng: np.random.Generator) -> None:
    one, other = _pick(proto.graph.node, rng), _pick(proto.graph.node, rng)
    if one.input:
        one.input[int(rng.integers(len(one.input)))] = _pick([*other.output, "nowhere", ""], rng)


def _order(proto: ModelProto, rng: np.random.Generator) -> None:
    nodes = [proto.graph.node[int(at)] for at in rng.permutation(len(proto.graph.node))]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)


def _gone(proto: ModelProto, rng: np.random.Generator) -> None:
    of = _pick([proto.graph.node, proto.graph.initializer, proto.graph.input, proto.graph.output], rng)
    del of[int(rng.integers(len(of)))]


def _twice(proto: ModelProto, rng: np.random.Generator) -> None:
    of = _pick([proto.graph.node, proto.graph.initializer, proto.graph.input, proto.graph.output], rng)
    of.append(_pick(of, rng))


def _versions(proto: ModelProto, rng: np.random.Generator) -> None:
    proto.ir_version = max(0, _number(rng)) % 2**31
    if rng.random() < 0.5 and proto.opset_import:
        proto.opset_import[0].version = _number(rng)
    if rng.random() < 0.2:
        del proto.opset_import[:]


def _endless(proto: ModelProto, rng: np.random.Generator) -> None:
    """A Loop whose condition is always true, before the output."""
    true = helper.make_node("Constant", [], ["go_on"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    body = helper.make_graph(
        [helper.make_node("Identity", ["again"], ["still"]), helper.make_node("Identity", ["carried"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    output = proto.graph.output[0].name
    for node in proto.graph.node:
        node.output[:] = ["before_loop" if name == output else name for name in node.output]
    proto.graph.node.extend([true, helper.make_node("Loop", ["", "go_on", "before_loop"], [output], body=body)])


def _deep(proto: ModelProto, rng: np.random.Generator) -> None:
    """If in If in If."""
    inner = helper.make_graph([helper.make_node("Nope", [], ["z"])], "g", [], [])
    for _ in range(int(rng.integers(2, 25))):  # deeper ones, protobuf does not write
        inner = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=inner)], "g", [], [])
    proto.graph.node.extend(inner.node)


def _nothing(proto: ModelProto, rng: np.random.Generator) -> None:
    proto.graph.ClearField(_pick(["node", "initializer", "input", "output"], rng))


def _metadata(proto: ModelProto, rng: np.random.Generator) -> None:
    entry = proto.metadata_props.add()
    entry.key = _pick(["testbed", "testbed.target", "sites", HOSTILE], rng)
    entry.value = _pick(["", "{", "null", HOSTILE, "9" * 5000, "[" * 5000], rng)
    proto.graph.name = HOSTILE
    proto.producer_name = HOSTILE


EDITS: dict[str, Callable[[ModelProto, np.random.Generator], None]] = {
    "input shape": _input_shape,
    "initializer shape": _initializer_shape,
    "initializer type": _initializer_type,
    "initializer values": _initializer_values,
    "external data": _external,
    "rename": _rename,
    "op type": _op_type,
    "attribute": _attribute,
    "wiring": _wiring,
    "order": _order,
    "gone": _gone,
    "twice": _twice,
    "versions": _versions,
    "endless loop": _endless,
    "deep": _deep,
    "nothing": _nothing,
    "metadata": _metadata,
}
