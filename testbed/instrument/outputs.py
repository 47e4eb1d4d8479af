"""What a model gives back: tensors, of which shapes and rows can be asked, or sequences and the like."""

from __future__ import annotations

from onnx import ModelProto

from testbed.core.errors import UsageError


def tensor_outputs(proto: ModelProto) -> list[str]:
    """Names of the outputs that are tensors. Raises UsageError where none is."""
    names = [value.name for value in proto.graph.output if value.type.HasField("tensor_type")]
    if not names:
        others = ", ".join(f"{value.name!r} ({value.type.WhichOneof('value')})" for value in proto.graph.output)
        kinds = others.replace("_type", "")
        raise UsageError(f"none of the model's outputs is a tensor: {kinds}; export it with the logits as an output")
    return names
