"""A user's own ONNX file as a plain file of the testbed: in one piece, its batch dynamic, its weights where they are used.

What has to be changed for that computes the same, and is told; a file that needs nothing stays what it is, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, checker, helper, inliner

from testbed.core.errors import TestbedError, UsageError
from testbed.export.layout import fold_transposes
from testbed.instrument.batch import is_fixed, with_dynamic_batch
from testbed.instrument.named import is_own
from testbed.instrument.shapes import FLOATS

_OLDEST_OPSET = 11  # the first with GatherElements, which ports are made of


@dataclass(frozen=True)
class Adopted:
    """``plain``: the file's content. ``changes``: what was done to it, for people; empty where nothing was."""

    plain: bytes
    changes: tuple[str, ...]


def adopt(path: Path) -> Adopted:
    """Reads an ONNX file, together with the weights it may keep beside it.

    Raises UsageError for a path that is no file or a fixed batch that cannot be made dynamic, TestbedError for a file that
    is not ONNX, is damaged, or that ports cannot be built into.
    """
    proto = read_onnx(path)
    if is_own(proto):
        return Adopted(path.read_bytes(), ())
    changes = []
    if _external(path):
        changes.append("the weights kept beside the file are taken into it")
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
        changes.append("its functions are inlined")
    if hoisted := _hoist_constants(proto):
        changes.append(f"{hoisted} weights written as Constant nodes are stored as weights")
    if folded := fold_transposes(proto):
        changes.append(f"{len(folded)} weights are stored transposed, as they are used")
    if is_fixed(proto):
        proto = with_dynamic_batch(proto)
        changes.append("its batch, fixed at 1, is made dynamic; checked to give the same rows")
    return Adopted(proto.SerializeToString(deterministic=True) if changes else path.read_bytes(), tuple(changes))


def read_onnx(path: Path) -> ModelProto:
    """The file's model, whole and checked. Raises UsageError for no file, TestbedError for one that is not valid ONNX."""
    if not path.is_file():
        raise UsageError(f"{path}: {'this is a folder; name' if path.is_dir() else 'no such file; name'} an ONNX file")
    try:
        proto = onnx.load(str(path))
    except (FileNotFoundError, checker.ValidationError) as error:
        raise TestbedError(f"{path}: the weights kept beside it cannot be read: {_first_line(error)}") from error
    except Exception as error:  # protobuf's error types come without stubs
        raise TestbedError(f"{path} is not ONNX, or is cut off: {_first_line(error)}") from error
    if not proto.graph.node or not proto.graph.output:
        raise TestbedError(f"{path} is not ONNX, or is cut off: it has no graph")
    try:
        checker.check_model(proto)
    except Exception as error:  # it knows no operators of other domains, but raises for much else
        raise TestbedError(f"{path} is not valid ONNX, or is cut off: {_first_line(error)}") from error
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise TestbedError(f"{path} is of opset {opset}; fault ports need {_OLDEST_OPSET} or later: export it again")
    return proto


def _external(path: Path) -> bool:
    stored = onnx.load(str(path), load_external_data=False).graph.initializer
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in stored)


def _hoist_constants(proto: ModelProto) -> int:
    """Float Constant nodes of more than one number become initializers; how many."""
    graph = proto.graph
    hoisted = []
    for node in graph.node:
        value = helper.get_node_attr_value(node, "value") if _has_value(node) else None
        if isinstance(value, TensorProto) and value.data_type in FLOATS and max((*value.dims, 0)) > 1:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            hoisted.append(node)
    for node in hoisted:
        graph.node.remove(node)
    return len(hoisted)


def _has_value(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and any(attribute.name == "value" for attribute in node.attribute)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
