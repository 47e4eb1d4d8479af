"""A user's ONNX file as it is read: whole, in order, checked; or one line that says why it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper

from testbed.core.errors import TestbedError, UsageError

_OLDEST_OPSET = 11  # the first with GatherElements, which ports are made of
_LARGEST = 2**31  # bytes: what protobuf serialises at once
_GIB = 2**30


def read_onnx(path: Path) -> tuple[ModelProto, list[str]]:
    """The file's model, and what was done to read it, for people.

    Raises UsageError for no file, TestbedError for one that is not valid ONNX or larger than can be held in one piece.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'this is a folder; name' if path.is_dir() else 'no such file; name'} an ONNX file")
    changes = []
    _check_size(path, path.stat().st_size)
    try:
        beside = _beside(path)
    except Exception as error:  # protobuf's error types come without stubs
        raise TestbedError(f"{path} is not ONNX, or is cut off: {_first_line(error)}") from error
    _check_size(path, path.stat().st_size + sum(beside))
    try:
        proto = onnx.load(str(path))
    except (FileNotFoundError, checker.ValidationError) as error:
        raise TestbedError(f"{path}: the weights kept beside it cannot be read: {_first_line(error)}") from error
    except Exception as error:  # protobuf's error types come without stubs
        raise TestbedError(f"{path} is not ONNX, or is cut off: {_first_line(error)}") from error
    if not proto.graph.node or not proto.graph.output:
        raise TestbedError(f"{path} is not ONNX, or is cut off: it has no graph")
    if beside:
        changes.append("the weights kept beside the file are taken into it")
    if sort_nodes(proto.graph):
        changes.append("its nodes are put in the order in which they are computed")
    try:
        checker.check_model(proto)
    except Exception as error:  # it knows no operators of other domains, but raises for much else
        raise TestbedError(f"{path} is not valid ONNX, or is cut off: {_first_line(error)}") from error
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise TestbedError(f"{path} is of opset {opset}; fault ports need {_OLDEST_OPSET} or later: export it again")
    return proto, changes


def _check_size(path: Path, size: int) -> None:
    if size >= _LARGEST:
        raise TestbedError(
            f"{path} holds {size / _GIB:.1f} GiB with its weights; larger than 2 GiB, protobuf's limit, is not supported:"
            " export it in fp16, or a smaller model"
        )


def _beside(path: Path) -> list[int]:
    """Bytes of each tensor that is kept beside the file."""
    stored = onnx.load(str(path), load_external_data=False).graph.initializer
    return [_bytes(tensor) for tensor in stored if tensor.data_location == TensorProto.EXTERNAL]


def _bytes(tensor: TensorProto) -> int:
    length = next((entry.value for entry in tensor.external_data if entry.key == "length"), "")
    elements = 1
    for size in tensor.dims:
        elements *= size
    return int(length) if length.isdigit() else elements * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


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
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from used_by(inner)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
