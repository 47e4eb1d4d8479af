"""Functions of a user's own file (model-local functions), put in the place of the nodes that call them."""

from __future__ import annotations

from onnx import ModelProto, inliner

from testbed.core.errors import TestbedError

_ONNX = ("", "ai.onnx")


def inlined(proto: ModelProto, file: str) -> ModelProto:
    """The model without functions. Raises TestbedError, with the node, for one that is left.

    A function may be written for another opset than the graph, if its operators mean the same in both: the checker has seen
    to that.
    """
    bodies = ModelProto()
    bodies.CopyFrom(proto)
    version = next((entry.version for entry in bodies.opset_import if entry.domain in _ONNX), 0)
    for function in bodies.functions:
        for entry in function.opset_import:
            if entry.domain in _ONNX:
                entry.version = version
    made = inliner.inline_local_functions(bodies)
    known = {(function.domain, function.name) for function in made.functions}
    for node in made.graph.node:
        if (node.domain, node.op_type) in known:
            raise TestbedError(
                f"{file}: its function {node.op_type}, of the node {node.name or node.output[0]!r}, cannot be inlined;"
                " export the model without functions"
            )
    return made
