"""Export of a torch model to plain ONNX whose tensors carry the sites' names and whose initializers are the parameters,
one for one.

The model's taps are exported as extra outputs, which names the tensors, and are then taken off the list of outputs
again:
the plain graph computes exactly the deployed model. Weights that the exporter multiplies by their transpose are stored
transposed, under the parameter's own name, and the file's metadata says so.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from testbed.core.errors import TestbedError
from testbed.core.folder.files import write_bytes
from testbed.export.layout import TRANSPOSED, drop_zero_biases, fold_transposes
from testbed.instrument.skeleton import skeleton
from testbed.models.vit import taps

OPSET = 20  # the newest one that ONNX Runtime, OpenVINO and TensorRT all take
_PREFIX = "model."


class _Tapped(nn.Module):
    """Returns the module's output and every tapped tensor, in the order the taps fire."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sites: list[str] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        seen: dict[str, Tensor] = {}

        def note(tap: Any, _inputs: Any, output: Tensor) -> None:
            seen[tap.site] = output

        handles = [tap.register_forward_hook(note) for tap in taps(self.model).values()]
        try:
            self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        self.sites = list(seen)
        return tuple(seen.values())


def export_onnx(model: nn.Module, example: Tensor, path: Path, *, input_name: str) -> ModelProto:
    """Writes ``plain_onnx(model, example)`` whole or not at all, and returns it."""
    proto = plain_onnx(model, example, input_name=input_name)
    write_bytes(path, proto.SerializeToString(deterministic=True))
    return proto


def plain_onnx(model: nn.Module, example: Tensor, *, input_name: str) -> ModelProto:
    """``model`` (in eval mode) as plain ONNX.

    example: one batch, (B, ...) float32; the batch is dynamic in the file. The graph's single output is the tensor of
    the model's last tap. Raises TestbedError when a weight does not survive as one initializer with one consumer.
    """
    tapped = _Tapped(model.eval())
    with torch.no_grad():
        tapped(example)
    proto = _export(tapped, example, input_name)
    graph = proto.graph
    output = tapped.sites[-1]
    values = {v.name: v for v in (*graph.output, *graph.value_info)}
    intermediate = [values[name] for name in tapped.sites[:-1]]
    del graph.output[:]
    graph.output.append(values[output])
    graph.value_info.extend(v for v in intermediate if v.name not in {i.name for i in graph.value_info})
    _strip_prefix(proto)
    drop_zero_biases(proto)
    transposed = fold_transposes(proto)
    onnx.helper.set_model_props(proto, {TRANSPOSED: json.dumps(sorted(transposed))})
    _assert_weights_survive(proto, model)
    onnx.checker.check_model(skeleton(proto))  # all but the numbers, which may be more than protobuf's 2 GiB
    return proto


def _export(tapped: _Tapped, example: Tensor, input_name: str) -> ModelProto:
    batch = torch.export.Dim("batch", min=1)
    for noisy in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
        program = torch.onnx.export(
            tapped,
            (torch.cat([example[:1]] * 2),),  # a batch of one would be specialised
            dynamo=True,
            opset_version=OPSET,
            optimize=False,  # the optimiser renames and merges weights
            input_names=[input_name],
            output_names=tapped.sites,
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    if program is None:
        raise TestbedError("torch.onnx.export returned nothing; is onnxscript installed?")
    proto: ModelProto = program.model_proto
    for node in proto.graph.node:  # stack traces of the exporting host are no part of the model
        del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    return proto


def _strip_prefix(proto: ModelProto) -> None:
    graph = proto.graph
    for named in (*graph.initializer, *graph.value_info):
        named.name = named.name.removeprefix(_PREFIX)
    for node in graph.node:
        node.input[:] = [name.removeprefix(_PREFIX) for name in node.input]


def _assert_weights_survive(proto: ModelProto, model: nn.Module) -> None:
    """A fault in a merged weight would strike twice, one in a renamed weight would have no name."""
    uses = [name for node in proto.graph.node for name in node.input]
    stored = {i.name for i in proto.graph.initializer}
    for name, _ in model.named_parameters():
        if name not in stored or uses.count(name) != 1:
            problem = f"{uses.count(name)} consumers" if name in stored else "no initializer"
            raise TestbedError(f"export: weight {name} has {problem} in the ONNX graph instead of exactly one")
