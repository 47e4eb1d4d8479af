"""tools/ as its scripts see it, and the native libraries of tests/engines."""

import sys
from pathlib import Path

from tests.engines.conftest import emulated_cuda_build, native_build

__all__ = ["emulated_cuda_build", "native_build"]

sys.path.append(str(Path(__file__).parents[2] / "tools"))
