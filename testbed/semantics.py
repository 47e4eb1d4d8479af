"""The reference of what a fault does to a value, in NumPy. Every other mechanism is tested bit-equal to this one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def as_words(values: NDArray) -> NDArray:
    """The values' bits as unsigned words of the same width, sharing memory."""
    return values.view(_WORDS[values.dtype.itemsize])


def corrupt(values: NDArray, and_mask: ArrayLike, or_mask: ArrayLike, xor_mask: ArrayLike) -> NDArray:
    """``((v & and) | or) ^ xor`` on each value's bits, elementwise.

    values: any shape, 8-, 16- or 32-bit dtype. Masks: broadcast against it. Returns a new array of the values' shape and
    dtype; NaN payloads, denormals and the sign of zero go through untouched.
    """
    words = as_words(np.ascontiguousarray(values))
    masks = [np.asarray(mask).astype(words.dtype, copy=False) for mask in (and_mask, or_mask, xor_mask)]
    return (((words & masks[0]) | masks[1]) ^ masks[2]).view(values.dtype)
