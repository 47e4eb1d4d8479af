"""A twin as far as one of its tensors, or with that tensor beside its own outputs."""

from __future__ import annotations

import onnx
from onnx import helper

from testbed.core.site import Site
from testbed.instrument.ports.insertion import ELEMENTS


def with_output(twin: bytes, site: Site) -> bytes:
    """The twin with a site's tensor, as struck, beside its own outputs."""
    proto = onnx.load_from_string(twin)
    proto.graph.output.append(_value(site))
    return bytes(proto.SerializeToString())


def up_to(twin: bytes, site: Site) -> bytes:
    """What of the twin computes a site's tensor, as struck. All inputs are kept, needed or not."""
    proto = onnx.load_from_string(twin)
    graph = proto.graph
    needed, nodes = {site.tensor}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, kept in ((graph.node, nodes[::-1]), (graph.initializer, weights), (graph.output, [_value(site)])):
        copies = [type(item)() for item in kept]
        for copy, item in zip(copies, kept, strict=True):
            copy.CopyFrom(item)
        del field[:]
        field.extend(copies)
    del graph.value_info[:]
    return bytes(proto.SerializeToString())


def _value(site: Site) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(site.tensor, ELEMENTS[site.format_name], ["batch", *site.shape])
