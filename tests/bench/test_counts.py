"""MACs against a library's counter, for every shape a model can have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from testbed.bench.counts import mac_count, parameter_count
from testbed.models.config import ViTConfig
from testbed.models.presets import preset
from testbed.models.vit import ViT

BASE: dict[str, Any] = {
    "image": 8,
    "patch": 2,
    "channels": 3,
    "width": 12,
    "heads": (3, 0, 1),
    "mlp": (10, 7, 0),
    "classes": 5,
    "head_width": 4,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_order": "post", "final_norm": "none"},
        {"patchify": "conv", "pooling": "mean"},
        {"cls_token": False, "pooling": "mean"},
        {"attention": "differential", "qkv_bias": True},
        {"gated_mlp": True, "layer_scale": True, "registers": 3},
        {"distillation": "head", "final_norm": "tokens"},
        {"pooling": "cls_and_mean", "final_norm": "tokens"},
    ],
)
def test_macs_are_what_the_library_counts(changes: dict[str, Any]) -> None:
    config = ViTConfig(**{**BASE, **changes})
    model = ViT(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 8, 8))
    assert 2 * mac_count(config) == counter.get_total_flops()


def test_parameters_of_the_published_sizes() -> None:
    """spec: tiny 5.52 M, small 21.66 M, base 85.78 M at 224 px, patch 16."""
    for name, millions in (("tiny", 5.52), ("small", 21.66), ("base", 85.78)):
        with torch.device("meta"):
            assert round(parameter_count(ViT(preset(f"vit-{name}-16-224"))) / 1e6, 2) == millions
