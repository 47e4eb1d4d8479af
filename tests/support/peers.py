"""Other tools that benchmarks compare with, which may not be installed."""

from __future__ import annotations

import pytest
from benchmarks import peer_pytorchfi

needs_pytorchfi = pytest.mark.skipif(not peer_pytorchfi.available(), reason=peer_pytorchfi.MISSING)
