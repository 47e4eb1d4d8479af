"""What engines run and ONNX's rules forbid, written as the rules ask: the same computation, under the same names.

Converters write such files, and ONNX Runtime says nothing. Each repair keeps what ONNX Runtime computes; anything else that
breaks a rule is left as it is, for the checker to name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper

GRAPH_NAME = "graph"
_FOREIGN_VERSION = 1  # of any domain that the file uses and gives no version of


def mend(proto: ModelProto) -> list[str]:
    """Changes the model in place. Returns what was done, for people; empty where nothing was."""
    changes = []
    if sort_nodes(proto.graph):
        changes.append("its nodes are put in the order in which they are computed")
    if not proto.graph.name:
        proto.graph.name = GRAPH_NAME
        changes.append("its graph is given a name")
    if domains := _name_domains(proto):
        changes.append(f"operators of {', '.join(domains)} are given a version, {_FOREIGN_VERSION}")
    if _keep_last_metadata(proto):
        changes.append("of metadata that is there twice, the last is kept")
    if twice := _keep_last_weights(proto.graph):
        changes.append(f"of {twice} weights stored twice, the last is kept, as ONNX Runtime does")
    if alike := _drop_repeated_names(proto.graph):
        changes.append(f"names that several nodes have ({alike}) are dropped")
    if untyped := _describe_ends(proto):
        changes.append(f"types that the file leaves out are filled in ({', '.join(untyped)})")
    return changes


def sort_nodes(graph: GraphProto) -> bool:
    """Puts nodes after those whose outputs they take, which ONNX asks for and engines do not; whether any was moved.

    The order is otherwise kept. A graph with a circle is left as it is: the checker says so.
    """
    made = {name for node in graph.node for name in node.output if name}
    placed: set[str] = set()
    order: list[NodeProto] = []
    waiting = list(graph.node)
    while waiting:
        left = []
        for node in waiting:
            if any(name in made and name not in placed for name in used_by(node)):
                left.append(node)
            else:
                order.append(node)
                placed.update(node.output)
        if len(left) == len(waiting):
            return False
        waiting = left
    if order == list(graph.node):
        return False
    del graph.node[:]
    graph.node.extend(order)
    return True


def used_by(node: NodeProto) -> Iterator[str]:
    """What a node takes, the graphs inside it (If, Loop) included."""
    yield from node.input
    for inner in inside(node):
        for deeper in inner.node:
            yield from used_by(deeper)


def inside(node: NodeProto) -> Iterator[GraphProto]:
    """Graphs that a node runs (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


def _domains_of(nodes: Iterator[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield node.domain
        for graph in inside(node):
            yield from _domains_of(iter(graph.node))


def _name_domains(proto: ModelProto) -> list[str]:
    """Foreign domains that are used without a version; "" (ONNX's own) is not guessed at: its versions differ."""
    known = {entry.domain for entry in proto.opset_import}
    missing = sorted(set(_domains_of(iter(proto.graph.node))) - known - {"", "ai.onnx"})
    proto.opset_import.extend(helper.make_opsetid(domain, _FOREIGN_VERSION) for domain in missing)
    return missing


def _keep_last_metadata(proto: ModelProto) -> bool:
    last = {entry.key: entry.value for entry in proto.metadata_props}
    if len(last) == len(proto.metadata_props):
        return False
    del proto.metadata_props[:]
    helper.set_model_props(proto, last)
    return True


def _keep_last_weights(graph: GraphProto) -> int:
    last = {tensor.name: number for number, tensor in enumerate(graph.initializer)}
    superseded = [n for n, tensor in enumerate(graph.initializer) if last[tensor.name] != n]
    for number in reversed(superseded):
        del graph.initializer[number]
    return len(superseded)


def _drop_repeated_names(graph: GraphProto) -> int:
    """Names of nodes mean nothing, but ONNX Runtime refuses two that are the same; how many names there were twice."""
    counts = Counter(node.name for node in graph.node if node.name)
    repeated = {name for name, count in counts.items() if count > 1}
    for node in graph.node:
        if node.name in repeated:
            node.name = ""
    return len(repeated)


def _describe_ends(proto: ModelProto) -> list[str]:
    """Names of outputs, and of weights that are listed as inputs, whose type or shape was missing and is now there."""
    graph = proto.graph
    described = []
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for value in graph.input:
        if value.name in stored and not _is_described(value):
            tensor = stored[value.name]
            value.CopyFrom(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            described.append(value.name)
    open_ends = [value for value in graph.output if not _is_described(value)]
    if open_ends:
        try:
            inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(proto).graph.output}
        except Exception:  # onnx's own error types differ by version; the checker will say what is wrong
            return described
        for value in open_ends:
            if _is_described(inferred[value.name]):
                value.CopyFrom(inferred[value.name])
                described.append(value.name)
    return described


def _is_described(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return value.type.HasField("tensor_type") and bool(kind.elem_type) and kind.HasField("shape")
