"""The output of a user's file that is judged: logits (B, K), chosen among its outputs, in that shape, as float32."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.instrument.adopt.batch import run_rows
from testbed.instrument.adopt.mend import used_by
from testbed.instrument.outputs import tensor_outputs
from testbed.instrument.quantised import FLOATS
from testbed.instrument.shapes import fixed_batch, input_shape, measured_shapes

_LOGITS = "logits"
_ROWS = 3
_ALL_FLOATS = (*FLOATS, TensorProto.DOUBLE)


def with_output(proto: ModelProto, name: str, file: str) -> str:
    """Keeps one output, and what computes it, changing the model in place. Returns what was done, for people.

    Raises UsageError for a name that no output has.
    """
    names = [value.name for value in proto.graph.output]
    if name not in names:
        raise UsageError(f"{file}: {unknown('output', name, names)}")
    others = [other for other in names if other != name]
    if not others:
        return ""
    for value in [value for value in proto.graph.output if value.name != name]:
        proto.graph.output.remove(value)
    drop_dead(proto)
    return f"of its {len(names)} outputs {name} is judged, which was asked for; {_listed(others)} dropped"


def with_logits_alone(proto: ModelProto, file: str, classes: int) -> list[str]:
    """Makes the logits of so many classes the only output, (B, K) and float32, changing the model in place.

    Of several outputs that one is taken which alone has the classes or, of several such, is called logits. Returns what
    was done, for people. Raises UsageError, with the outputs' names and what to do, where that leaves a choice, or nothing.
    """
    changes = []
    names = [value.name for value in proto.graph.output]
    shapes = _shapes(proto)
    if len(names) > 1:
        chosen, why = _chosen(shapes, file, classes)
        with_output(proto, chosen, file)
        others = [name for name in names if name != chosen]
        changes.append(f"of its {len(names)} outputs {chosen} is judged, {why}; {_listed(others)} dropped")
    name = proto.graph.output[0].name
    if change := _without_argmax(proto, file):
        changes.append(change)
        name = proto.graph.output[0].name
        shapes = _shapes(proto)
    element, rest = proto.graph.output[0].type.tensor_type.elem_type, shapes[name][1:]
    if len(rest) > 1 and math.prod(rest) == max(rest):
        _append(proto, helper.make_node("Flatten", [name], [f"{name}/flat"], axis=1), element, max(rest))
        axes = ", ".join(("B", *map(str, rest)))
        changes.append(f"its output ({axes}) is flattened to (B, {max(rest)})")
        name = f"{name}/flat"
    if element in _ALL_FLOATS and element != TensorProto.FLOAT:
        cast = helper.make_node("Cast", [name], [f"{name}/fp32"], to=TensorProto.FLOAT)
        _append(proto, cast, TensorProto.FLOAT, max(rest, default=1))
        changes.append("its output is cast to float32")
    return changes


def _shapes(proto: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs that are tensors, for two images, or for one where the file takes no more."""
    return measured_shapes(proto, tensor_outputs(proto), 1 if fixed_batch(proto) else 2)


def _chosen(shapes: dict[str, tuple[int, ...]], file: str, classes: int) -> tuple[str, str]:
    """The name of the output to be judged, and why."""
    fitting = [name for name, (_, *rest) in shapes.items() if rest and math.prod(rest) == max(rest) == classes]
    advice = 'name the one to judge ([model] output = "NAME"), or export it with the logits alone'
    if not fitting:
        listed = ", ".join(f"{name} ({', '.join(map(str, ('B', *shape[1:])))})" for name, shape in shapes.items())
        raise UsageError(
            f"{file} has {len(shapes)} outputs, and none of {classes} classes: {listed}; choose another data set, or {advice}"
        )
    if len(fitting) == 1:
        return fitting[0], f"the only one of {classes} classes"
    called = [name for name in fitting if name.lower().rsplit("/", 1)[-1].split(":")[0] == _LOGITS]
    if len(called) == 1:
        return called[0], f"by its name, of {len(fitting)} of {classes} classes"
    raise UsageError(f"{file} has {len(fitting)} outputs of {classes} classes ({', '.join(fitting)}); {advice}")


def _without_argmax(proto: ModelProto, file: str) -> str:
    """Ends the file before the ArgMax that it ends in; what was done, "" where it ends in none.

    Raises UsageError where its classes are not those of the tensor before.
    """
    output = proto.graph.output[0]
    made = next((node for node in proto.graph.node if output.name in node.output), None)
    if made is None or made.op_type != "ArgMax":
        return ""
    images = np.random.default_rng(0).standard_normal((_ROWS, *input_shape(proto))).astype(np.float32)
    if fixed_batch(proto):
        images = images[:1]
    chosen = run_rows(proto, images).reshape(-1)
    output.CopyFrom(helper.make_tensor_value_info(made.input[0], TensorProto.FLOAT, ["batch", None]))
    proto.graph.node.remove(made)
    logits = run_rows(proto, images)
    output.CopyFrom(helper.make_tensor_value_info(made.input[0], TensorProto.FLOAT, ["batch", *logits.shape[1:]]))
    if len(chosen) != len(images) or not np.array_equal(logits.reshape(len(images), -1).argmax(1), chosen):
        raise UsageError(f"{file} ends in ArgMax, though not over its classes alone; export the logits")
    return "it ends in ArgMax, which is cut: its output is now the logits"


def _append(proto: ModelProto, node: NodeProto, element: int, classes: int) -> None:
    """A node behind the output, whose own output takes its place."""
    graph = proto.graph
    node.name = node.output[0]
    before = type(graph.output[0]).FromString(graph.output[0].SerializeToString())
    graph.node.append(node)
    graph.output[0].CopyFrom(_logits(proto, node.output[0], element, classes))
    if all(value.name != before.name for value in graph.value_info):
        graph.value_info.append(before)


def _logits(proto: ModelProto, name: str, element: int, classes: int) -> ValueInfoProto:
    dims = proto.graph.output[0].type.tensor_type.shape.dim
    batch = (dims[0].dim_value or dims[0].dim_param) if dims else ""
    return helper.make_tensor_value_info(name, element, [batch or "batch", classes])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more} {'is' if len(names) == 1 else 'are'}"


def drop_dead(proto: ModelProto) -> None:
    """Drops nodes whose outputs nobody takes, and initializers that nobody takes any more."""
    graph = proto.graph
    before = {name for node in graph.node for name in used_by(node)}
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(used_by(node))
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(reversed(kept))
        for tensor in [t for t in graph.initializer if t.name in before and t.name not in needed]:
            graph.initializer.remove(tensor)
