"""What decides the last bits of a row besides the testbed: the CPU, Python, the libraries and the native kernels."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

from tests.characterisation.campaigns import Testbed

LIBRARIES = (
    "ml-dtypes",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "pandas",
    "pillow",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "torch",
)
KERNELS = ("cpu kernel", "onnxruntime op")
_INSTRUCTIONS = re.compile(r"^(sse|ssse|avx|fma|f16c|amx|neon|asimd|sve|bf16|i8mm)")

Environment = dict[str, Any]


def environment(testbed: Testbed) -> Environment:
    """As `testbed doctor` says, with the CPU's instruction sets, by which libraries choose their arithmetic."""
    found = json.loads(testbed(["doctor", "--json"]))
    versions = {library["name"]: library["version"] for library in found["libraries"]}
    available = {kernel["name"]: kernel["available"] for kernel in found["kernels"]}
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": _cpu(),
        "python": found["python"]["version"],
        "libraries": {name: versions[name] for name in LIBRARIES},
        "kernels": {name: available[name] for name in KERNELS},
    }


def _cpu() -> dict[str, str]:
    """Of the first core; on systems without /proc, only what Python says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {"name": platform.processor()}
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    instructions = sorted(filter(_INSTRUCTIONS.match, values.get("flags", values.get("Features", "")).split()))
    return {
        "name": values.get("model name", platform.processor()),
        "family": values.get("cpu family", ""),
        "model": values.get("model", ""),
        "instructions": " ".join(instructions),
    }
