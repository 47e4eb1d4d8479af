"""Models that TensorRT is given, and images for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from testbed.models.config import ViTConfig

IMAGES = np.random.default_rng(0).standard_normal((8, 1, 4, 4)).astype(np.float32)
BASE: dict[str, Any] = {"image": 4, "patch": 2, "channels": 1, "width": 8, "classes": 3, "head_width": 4}
MODELS = {
    "pre-norm": ViTConfig(heads=(2,), mlp=(8,), qkv_bias=True, patch_norm=True, **BASE),
    "post-norm, convolution, mean": ViTConfig(
        heads=(2,), mlp=(8,), norm_order="post", patchify="conv", pooling="mean", final_norm="none", **BASE
    ),
    "differential, 2-D": ViTConfig(heads=(2,), mlp=(8,), attention="differential", position="2d", **BASE),
}
Exported = Callable[[str], onnx.ModelProto]
