"""A user's own ONNX file as a plain file of the testbed: in one piece, its batch dynamic, its weights where they are used.

What has to be changed for that computes the same, and is told; a file that needs nothing stays what it is, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from testbed.core.errors import TestbedError
from testbed.export.layout import fold_transposes
from testbed.instrument.adopt.batch import with_dynamic_batch
from testbed.instrument.adopt.control import check_control_flow
from testbed.instrument.adopt.functions import inlined
from testbed.instrument.adopt.images import with_float_images, with_image_size
from testbed.instrument.adopt.outputs import with_output
from testbed.instrument.adopt.sizes import check_memory
from testbed.instrument.adopt.sources import read_onnx
from testbed.instrument.lean.apart import Apart
from testbed.instrument.lean.stored import LARGEST, TooLarge, loaded, size_of, too_large, transpose
from testbed.instrument.probe import Endless, TooMuchMemory
from testbed.instrument.shapes import FLOATS
from testbed.instrument.sites.named import is_own


@dataclass(frozen=True)
class Adopted:
    """``plain``: the file's content. ``changes``: what was done to it, for people; empty where nothing was. ``lean``: the
    same model with its large weights where they lie on disk, see `testbed.instrument.lean`. ``apart``: where the model has 2
    GiB and more, its weights, which ``plain`` then only names."""

    plain: bytes
    changes: tuple[str, ...]
    lean: ModelProto | None = None
    apart: Apart | None = None

    @cached_property
    def proto(self) -> ModelProto:
        """The model, lean where it is known so: what its graph says is asked of it in little memory."""
        return onnx.load_from_string(self.plain) if self.lean is None else self.lean

    @property
    def whole(self) -> bytes:
        """The model in one piece. Raises TestbedError for 2 GiB and more."""
        if self.apart is not None:
            raise TooLarge(f"the model {too_large(size_of(self.proto))}")
        return self.plain

    def weights(self) -> dict[str, NDArray]:
        """What ``plain`` only names, where it lies; what is turned is read."""
        return {} if self.apart is None else self.apart.mapped()


@dataclass(frozen=True)
class LeanAdopted:
    """``proto``: a lean model, see `testbed.instrument.lean`. ``changes``: as of `Adopted`. ``source``: the file."""

    proto: ModelProto
    changes: tuple[str, ...]
    source: Path

    def with_weights(self, data: str) -> Adopted:
        """The content, with its weights or, from 2 GiB on, apart from them, in a file of the name ``data``."""
        if size_of(self.proto) >= LARGEST:
            apart = Apart.of(self.proto, data)
            return Adopted(apart.serialised(), self.changes, self.proto, apart)
        if not self.changes:
            return Adopted(self.source.read_bytes(), (), self.proto)
        return Adopted(loaded(self.proto).SerializeToString(deterministic=True), self.changes, self.proto)


def adopt(path: Path, output: str | None = None, image_size: int | None = None) -> Adopted:
    """`adopt_lean`, with the weights. Raises TestbedError, too, for 2 GiB and more."""
    lean = adopt_lean(path, output, image_size)
    if (size := size_of(lean.proto)) >= LARGEST:
        raise TestbedError(f"{path} {too_large(size)}")
    return lean.with_weights("")


def adopt_lean(path: Path, output: str | None = None, image_size: int | None = None) -> LeanAdopted:
    """Reads an ONNX file; its large weights, in it or beside it, stay where they are.

    output: the name of the only one to keep; all unless stated. image_size: height and width of images, where the file leaves
    them open. Raises UsageError for a path that is no file, for an output that it does not have, for images of another size,
    for inputs that are no images, outputs that are no tensors, tensors larger than memory and for a batch of several that
    cannot be made dynamic, TestbedError for a file that is not ONNX, is damaged, whose branches or loops depend on the images,
    or that ports cannot be built into.
    """
    proto, changes = read_onnx(path)
    if output is not None and (change := with_output(proto, output, str(path))):
        changes.append(change)
    own = is_own(proto)
    if not own:
        if proto.functions:
            proto = inlined(proto, str(path))
            changes.append("its functions are inlined")
        changes += with_float_images(proto)
    if image_size is not None and (change := with_image_size(proto, image_size, str(path))):
        changes.append(change)
    check_memory(proto, str(path))
    if own:  # nothing to adapt; but another tool may have put its nodes out of order
        return LeanAdopted(proto, tuple(changes), path)
    if hoisted := _hoist_constants(proto):
        changes.append(f"{hoisted} weights written as Constant nodes are stored as weights")
    if folded := fold_transposes(proto, transpose):
        changes.append(f"{len(folded)} weights are stored transposed, as they are used")
    check_control_flow(proto, str(path))
    try:
        dynamic, change = with_dynamic_batch(proto)
    except (Endless, TooMuchMemory) as error:
        raise TestbedError(f"{path}: {error}") from error
    if change:
        proto = dynamic
        changes.append(change)
    return LeanAdopted(proto, tuple(changes), path)


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
