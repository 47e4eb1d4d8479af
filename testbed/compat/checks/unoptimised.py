"""ONNX Runtime with all of its graph optimisations off: each node computes what the file says, and nothing is fused.

So two files that hold the same computation give the same bits, whatever a port or an edit would keep from being fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, helper


class Unoptimised:
    """An ONNX file in memory, ready to run."""

    def __init__(self, proto: ModelProto, also: Sequence[str] = ()) -> None:
        """Open the file. also: tensors of the graph that are wanted beside its outputs."""
        if also:
            probe = ModelProto()
            probe.CopyFrom(proto)
            known = {value.name for value in proto.graph.output}
            probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in also if name not in known)
            proto = probe
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        self._session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Output name -> array."""
        return dict(zip(self._names, self._session.run(None, dict(feeds)), strict=True))
