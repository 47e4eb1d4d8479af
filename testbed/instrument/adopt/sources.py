"""A user's ONNX file as it is read: whole, in order, checked; or one line that says why it cannot be."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, checker

from testbed.core.errors import EngineError, TestbedError, UsageError, first_line
from testbed.core.folder.file_kinds import is_safetensors, other_format, start_of, unusable
from testbed.instrument.adopt.mend import mend
from testbed.instrument.lean.read import read_model
from testbed.instrument.probe import open_probe
from testbed.instrument.skeleton import skeleton

_OLDEST_OPSET = 11  # the first with GatherElements, which ports are made of


def read_onnx(path: Path) -> tuple[ModelProto, list[str]]:
    """The file's lean model, and what was done to read it, for people.

    Raises UsageError for no file, TestbedError for one that is not valid ONNX, or whose weights cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'this is a folder; name' if path.is_dir() else 'no such file; name'} an ONNX file")
    _refuse_other_kinds(path)
    changes = []
    try:
        proto, beside = read_model(path)
    except TestbedError:
        raise
    except Exception as error:  # protobuf's error types come without stubs
        raise TestbedError(f"{path} is not ONNX, or is cut off: {first_line(error)}") from error
    if not proto.graph.node or not proto.graph.output:
        raise TestbedError(f"{path} is not ONNX, or is cut off: it has no graph")
    if beside:
        changes.append("the weights kept beside the file are taken into it")
    changes += mend(proto)
    try:
        checker.check_model(skeleton(proto))
    except Exception as error:  # it knows no operators of other domains, but raises for much else
        raise TestbedError(f"{path} is not valid ONNX: {first_line(error)}; {_verdict(proto)}") from error
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise TestbedError(f"{path} is of opset {opset}; fault ports need {_OLDEST_OPSET} or later: export it again")
    return proto, changes


def _refuse_other_kinds(path: Path) -> None:
    """Raises TestbedError for a file whose first bytes say that it is something else, saying what to do."""
    if reason := unusable(path, "ONNX"):
        raise TestbedError(f"{path} {reason}")
    if other := other_format(path):
        raise TestbedError(f"{path} is {other}, not ONNX; export the original model to ONNX")
    start = start_of(path)
    is_pytorch = start.startswith((b"PK\x03\x04", b"\x80\x02"))
    if is_pytorch or is_safetensors(path):
        kind = "a PyTorch file or another archive" if is_pytorch else "a safetensors file"
        raise TestbedError(
            f"{path} is {kind}, not ONNX: import the weights it holds (testbed import {path} --run DIR), or export the model"
        )


def _verdict(proto: ModelProto) -> str:
    """What to do about a file that breaks a rule of ONNX's that is not mended."""
    try:
        with open_probe(proto, "checked"):
            pass
    except EngineError:
        return "ONNX Runtime refuses it, too: export it again"
    return "ONNX Runtime runs it all the same, but what a fault would strike is not certain: export it again"
