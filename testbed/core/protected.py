"""What makes a file a protected one, and how it is named: the contract between `testbed protect` and all that runs its files.

A protected ONNX file computes its plain one's outputs, corrected or checked while it runs. Passes that detect add one
output, DETECTED; every tensor and initializer that protection adds has a name led by PREFIX and its pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

from testbed.core.formats import PRECISIONS

if TYPE_CHECKING:
    from onnx import ModelProto

PassName = Literal["range", "duplicate", "checksum", "nonfinite"]
PASSES: tuple[PassName, ...] = get_args(PassName)
"""The passes of protection, in the order in which they are applied."""

STAGE = "protect"
"""The stage of a run folder that writes the model and its protected files."""
PROTECTION = "testbed.protection"
"""Key of the file's metadata whose value is JSON of the passes; a file is protected where it is there."""
DETECTED = "detected"
"""The graph's second output: bool (batch,), True where the engine's own checks raised an alarm for the image."""
PREFIX = "protect."
"""Of names of tensors and initializers that protection adds: ``protect.PASS.<...>``."""
FLAG = f"{PREFIX}flag."
"""Of names of the alarms on their way to DETECTED: ``protect.flag.N``, float32 (batch, 1), 0 without an alarm."""

_FOLDER = "protected"


def protected_file(precision: str) -> str:
    """The protected model in one precision, from its run folder: ``protected/model.fp32.onnx``."""
    return f"{_FOLDER}/model.{precision}.onnx"


def protected_precisions(files: Iterable[str]) -> tuple[str, ...]:
    """The precisions of the protected models among the files that a stage wrote."""
    written = set(files)
    return tuple(precision for precision in PRECISIONS if protected_file(precision) in written)


def is_protected(proto: ModelProto) -> bool:
    """Whether the file says that it is."""
    return any(entry.key == PROTECTION for entry in proto.metadata_props)


def is_detecting(proto: ModelProto) -> bool:
    """Whether it is protected, and says of each image whether its checks raised an alarm."""
    return is_protected(proto) and any(value.name == DETECTED for value in proto.graph.output[1:])
