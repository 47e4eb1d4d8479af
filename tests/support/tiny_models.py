"""Models that take no time."""

from __future__ import annotations

from testbed.models.config import ViTConfig

TINY_VIT = ViTConfig(image=4, patch=2, channels=1, width=8, classes=3, head_width=4, heads=(2,), mlp=(8,))
