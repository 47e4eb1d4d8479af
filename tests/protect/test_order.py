"""The order in which a protected file's nodes are written, and ONNX Runtime runs them."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime as ort
from onnx import ModelProto

from testbed.core.protected import PREFIX
from testbed.protect.build import protect
from testbed.protect.contract import CalibrationSet
from testbed.protect.passes.checksum import ChecksumPass
from tests.protect.conftest import some_images


def test_checks_run_beside_what_they_check(plain: ModelProto, calibration: CalibrationSet, tmp_path: Path) -> None:
    """The first block's checks have run before the last block's products: in the file's order they would all come last."""
    content = protect(plain, [ChecksumPass()], calibration).proto.SerializeToString()
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    session.run(None, {"image": some_images(2, 0)})
    events = json.loads(Path(session.end_profiling()).read_text())
    names = [event["name"] for event in events if event.get("cat") == "Node" and "kernel_time" in event["name"]]
    first = max(number for number, name in enumerate(names) if name.startswith(f"{PREFIX}checksum.block.0."))
    last = max(number for number, name in enumerate(names) if not name.startswith(PREFIX))
    assert first < last / 2 + 10
    assert sum(name.startswith(PREFIX) for name in names) > 30
