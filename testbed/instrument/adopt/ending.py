"""Logits of a file whose output is a probability already: its Softmax is cut, and the tensor before it becomes the output.

A campaign takes the softmax itself (tiers, margins, probabilities), and judges differences of logits. The cut is proven by
running both: the softmax of the new output must be what the file gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from testbed.analysis.outputs.confidence import softmax
from testbed.core.errors import UsageError
from testbed.instrument.adopt.batch import run_rows
from testbed.instrument.adopt.outputs import drop_dead
from testbed.instrument.shapes import input_shape
from testbed.instrument.sites.pattern_graph import LAYOUT

_QUANTISING = ("QuantizeLinear", "DequantizeLinear")
_SOFTMAXES = ("Softmax", "LogSoftmax")
_SIGMOIDS = ("Sigmoid", "HardSigmoid")
_ROWS = 3
_SAME, _SAME_QUANTISED = 1e-3, 3e-2  # of the largest probability; 8 and 16 bits hold it no better
_SUM = 1e-2  # of 16-bit probabilities of a thousand classes
_VARIED = 0.05  # of a row's sum


@dataclass(frozen=True)
class _Ending:
    """``node``: what makes probabilities of logits. ``after``: what then lays them out, in the order of the graph."""

    node: NodeProto
    after: tuple[NodeProto, ...]
    is_log: bool

    @property
    def describe(self) -> str:
        logged = self.is_log and self.node.op_type != "LogSoftmax"
        return f"Log of {self.node.op_type}" if logged else str(self.node.op_type)


def with_logits(proto: ModelProto, file: str) -> tuple[ModelProto, str]:
    """The model that ends before its Softmax, and what was done, for people; ``proto`` and "" where it ends in none.

    Raises UsageError for one that ends in a Sigmoid: independent probabilities have no confidence of one class over
    another.
    """
    tail = _tail(proto)
    if tail is None:
        return proto, ""
    if tail.node.op_type in _SIGMOIDS:
        raise UsageError(
            f"{file} ends in {tail.node.op_type}: independent probabilities, of which confidence tiers and margins"
            f" between classes are not defined; export the logits, without the {tail.node.op_type}"
        )
    cut = _cut(proto, tail)
    images = np.random.default_rng(0).standard_normal((_ROWS, *input_shape(proto))).astype(np.float32)
    theirs, ours = (run_rows(model, images) for model in (proto, cut))
    probabilities = np.exp(theirs) if tail.is_log else theirs
    quantised = any(node.op_type in _QUANTISING for node in tail.after)
    atol = (_SAME_QUANTISED if quantised else _SAME) * probabilities.max()
    if ours.shape != theirs.shape or not np.allclose(softmax(ours), probabilities, rtol=0, atol=atol):
        raise UsageError(
            f"{file} ends in {tail.describe}, though not over its classes alone: its output cannot be judged; export the"
            " logits"
        )
    return (
        cut,
        f"it ends in {tail.describe}, which is cut: its output is now the logits, of which the testbed takes the softmax",
    )


def check_logits(outputs: NDArray[np.float32], file: str) -> str:
    """A warning where outputs (n, K) may be independent probabilities, "" where they are logits for all one can tell.

    Raises UsageError where each row is a distribution already (in percent, or whatever its sum is), made otherwise than
    by a Softmax that could be cut.
    """
    if outputs.shape[1] < 2 or not np.isfinite(outputs).all() or outputs.min() < 0:
        return ""
    sums = outputs.sum(1, dtype=np.float64)
    total = float(np.median(sums))
    alike = np.abs(sums - total).max() <= _SUM * total
    varied = float(np.ptp(outputs, axis=0).max()) > _VARIED * total  # rows that are all the same say nothing of a sum
    if alike and (abs(total - 1) < _SUM or varied):
        whole = "sums to 1" if abs(total - 1) < _SUM else f"sums to {total:.4g}"
        raise UsageError(
            f"{file}: its outputs are probabilities already (none is negative, and every row {whole}), but do not come"
            " from a Softmax at its end that could be cut; export the logits"
        )
    if outputs.max() > 1 + _SUM:
        return ""
    return (
        "every output lies in [0, 1]: if these are independent probabilities (a sigmoid), tiers and margins mean nothing;"
        " export the logits then"
    )


def _tail(proto: ModelProto) -> _Ending | None:
    """None where the output is not a Softmax or Sigmoid, laid out anew or quantised at most."""
    producer = {name: node for node in proto.graph.node for name in node.output}
    after: list[NodeProto] = []
    tensor, is_log = proto.graph.output[0].name, False
    while (node := producer.get(tensor)) is not None:
        if node.op_type in _SOFTMAXES or (node.op_type in _SIGMOIDS and not is_log):
            return _Ending(node, tuple(reversed(after)), is_log or node.op_type == "LogSoftmax")
        if node.op_type == "Log" and not is_log:
            is_log = True
        elif node.op_type not in LAYOUT and node.op_type not in _QUANTISING:
            return None
        after.append(node)
        tensor = node.input[0]
    return None


def _cut(proto: ModelProto, tail: _Ending) -> ModelProto:
    """What lays the probabilities out, lays the logits out; a quantiser, whose range is that of probabilities, goes too."""
    cut = ModelProto()
    cut.CopyFrom(proto)
    graph = cut.graph
    same = {tail.node.output[0]: tail.node.input[0]}
    nodes = {node.output[0]: node for node in graph.node}
    for past in tail.after:
        source = same[past.input[0]]
        if past.op_type in LAYOUT:
            made = nodes[past.output[0]]
            made.input[0] = source
            same[past.output[0]] = past.output[0]
        else:
            same[past.output[0]] = source
    output = graph.output[0]
    if same[output.name] != output.name:
        output.name = same[output.name]
        for value in [value for value in graph.value_info if value.name == output.name]:
            output.CopyFrom(value)
            graph.value_info.remove(value)
    drop_dead(cut)
    return cut
