"""A twin as far as one of its tensors, or with some of its tensors beside its own outputs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper

from testbed.core.site import Site
from testbed.instrument.ports.insertion import ELEMENTS
from testbed.instrument.slicing import backward_slice


def with_output(twin: bytes, site: Site) -> bytes:
    """The twin with a site's tensor, as struck, beside its own outputs."""
    proto = onnx.load_from_string(twin)
    proto.graph.output.append(_value(site))
    return bytes(proto.SerializeToString())


def up_to(twin: bytes, site: Site) -> bytes:
    """What of the twin computes a site's tensor, as struck. All inputs are kept, needed or not."""
    proto = onnx.load_from_string(twin)
    graph = proto.graph
    nodes, needed = backward_slice(proto, [site.tensor])
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, kept in ((graph.node, nodes), (graph.initializer, weights), (graph.output, [_value(site)])):
        copies = [type(item)() for item in kept]
        for copy, item in zip(copies, kept, strict=True):
            copy.CopyFrom(item)
        del field[:]
        field.extend(copies)
    del graph.value_info[:]
    return bytes(proto.SerializeToString())


def with_live_outputs(twin: bytes, sites: Iterable[Site]) -> bytes:
    """The twin with the tensors before these sites' ports as outputs ``SITE'S TENSOR/live``."""
    proto = onnx.load_from_string(twin)
    declared = {value.name for value in proto.graph.output}
    for site in sites:
        value = _value(site)
        value.name = f"{site.tensor}/live"
        if value.name not in declared:
            proto.graph.output.append(value)
    return bytes(proto.SerializeToString())


def _value(site: Site) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(site.tensor, ELEMENTS[site.format_name], ["batch", *site.shape])
