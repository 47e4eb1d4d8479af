"""The tensors of a forward pass by site, read with plain hooks: an oracle for whatever records them otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from testbed.models.vit import Tap, taps


def site_tensors(model: nn.Module, images: Tensor) -> dict[str, NDArray[np.float32]]:
    """Site -> its tensor, and "logits"."""
    seen: dict[str, NDArray[np.float32]] = {}

    def note(tap: Any, _inputs: Any, output: Tensor) -> None:
        assert isinstance(tap, Tap)
        seen[tap.site] = output.numpy()

    handles = [tap.register_forward_hook(note) for tap in taps(model).values()]
    with torch.no_grad():
        seen["logits"] = model(images).numpy()
    for handle in handles:
        handle.remove()
    return seen
