"""A plain file, through the passes of protection in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto

from testbed.core.errors import UsageError
from testbed.protect.checks.alarms import join_flags
from testbed.protect.checks.bounds import widen_copies
from testbed.protect.contract import ORDER, Applied, CalibrationSet, ProtectionPass
from testbed.protect.graph import GraphEditor, check_unprotected, marked


@dataclass(frozen=True)
class Protected:
    """A protected file, and what each pass did, in the order in which they were applied."""

    proto: ModelProto
    applied: tuple[Applied, ...]

    @property
    def detects(self) -> bool:
        """Whether the file has the output that says that an alarm was raised."""
        return len(self.proto.graph.output) > 1


def protect(
    plain: ModelProto, passes: Sequence[ProtectionPass], calibration: CalibrationSet, name: str = "the file"
) -> Protected:
    """Apply passes in the order of `ORDER`. name: of the file, for messages.

    Raises UsageError for a file that is protected already or that a pass cannot be applied to, TestbedError where the
    result does not hold what a pass put there.
    """
    check_unprotected(plain, name)
    if not passes:
        raise UsageError(f"name a pass of protection: {', '.join(ORDER)}")
    if len({step.name for step in passes}) != len(passes):
        raise UsageError("each pass of protection can be named once")
    proto, applied = plain, list[Applied]()
    for step in sorted(passes, key=lambda step: ORDER.index(step.name)):
        step.requires(GraphEditor(proto))
        proto, done = step.call(proto, calibration)
        applied.append(done)
        proto = marked(proto, [each.to_json() for each in applied])  # so that the next finds the same sites
    for number, done in enumerate(applied):
        if any(spot.kind == "copy" for spot in done.places):  # the other checks' bounds allow for rounding anyway
            proto, applied[number] = widen_copies(proto, done, calibration)
    proto = marked(join_flags(proto), [done.to_json() for done in applied])
    for step in passes:
        step.ensures(proto, next(done for done in applied if done.name == step.name))
    return Protected(proto, tuple(applied))
