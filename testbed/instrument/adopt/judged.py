"""What of a user's own file a campaign judges, its logits, and what it is fed, images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from testbed.core.errors import UsageError
from testbed.core.protected import is_detecting
from testbed.instrument.adopt.ending import with_logits
from testbed.instrument.adopt.file import LeanAdopted
from testbed.instrument.adopt.outputs import with_logits_alone
from testbed.instrument.lean.stored import load_weight
from testbed.instrument.quantised import FLOATS
from testbed.instrument.shapes import input_shape, model_input


def judged(adopted: LeanAdopted, file: str, classes: int) -> LeanAdopted:
    """The file with logits at its end, its only output. Raises UsageError where it has none that can be judged."""
    if is_detecting(adopted.proto):  # the testbed's own, with its alarms
        return adopted
    proto = ModelProto()
    proto.CopyFrom(adopted.proto)
    changes = with_logits_alone(proto, file, classes)
    cut, change = with_logits(proto, file)
    if change:
        changes.append(change)
    if not changes:
        return adopted
    return replace(adopted, proto=cut, changes=(*adopted.changes, *changes))


def check_weights(proto: ModelProto, file: str) -> None:
    """Raises UsageError, with its name, for a weight that holds NaN: so would every output."""
    for tensor in proto.graph.initializer:
        if tensor.data_type not in FLOATS:
            continue
        whole = TensorProto()
        whole.CopyFrom(tensor)
        load_weight(whole)
        values = numpy_helper.to_array(whole)
        if count := int(np.isnan(values).sum()):
            raise UsageError(
                f"{file}: its weight {tensor.name!r} holds NaN ({count:,} of {values.size:,} numbers); its outputs would be"
                " NaN, too: export the model from a checkpoint whose training did not diverge"
            )


def image_side(proto: ModelProto) -> int:
    """Pixels. Raises UsageError for an input other than float32 (B, C, S, S)."""
    value, shape = model_input(proto), input_shape(proto)
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UsageError(f"the model's input {value.name!r} is not float32; export it with float32 images, cast inside")
    if len(shape) != 3 or shape[1] != shape[2]:
        axes = ", ".join(("B", *map(str, shape)))
        raise UsageError(f"the model's input {value.name!r} is ({axes}); a campaign needs square images (B, C, S, S)")
    return shape[1]
