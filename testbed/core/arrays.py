"""Names of NumPy arrays by what they hold: one name, one number format, the same all over the package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
UInt8s = NDArray[np.uint8]
Words32 = NDArray[np.uint32]
"""The bits of values of up to 32 bits, each in the low bits of its word."""
Words64 = NDArray[np.uint64]
