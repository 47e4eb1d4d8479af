"""Nothing is written or sent behind the user's back: telemetry of the libraries that have one is off.

ONNX Runtime (1.31) and OpenVINO (2026.4, its converter's package) make files with an identifier of the machine in the
user's home folder as soon as they are imported, and send events later. Who imports either of them before the testbed, in
the same process, has those files already; then ONNX Runtime is still told to send no more.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

ONNXRUNTIME = "ORT_DISABLE_TELEMETRY"
"""Environment variable that ONNX Runtime reads when it is loaded. Somebody who wants the telemetry sets it to 0."""
_OPENVINO = "openvino_telemetry"


def switch_off() -> None:
    """Switches telemetry off for this process and those that it starts. Imports neither library."""
    os.environ.setdefault(ONNXRUNTIME, "1")
    if "openvino" not in sys.modules:  # without its package for telemetry, OpenVINO takes a stub of its own
        sys.modules.setdefault(_OPENVINO, ModuleType(_OPENVINO))


def silence(onnxruntime: Any) -> None:
    """Has the module, which may have been loaded before `switch_off`, send no more events."""
    if os.environ.get(ONNXRUNTIME) != "0":
        onnxruntime.disable_telemetry_events()
