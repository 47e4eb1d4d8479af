"""Models of timm whose blocks differ from the plain Vision Transformer's: windows, stages, convolutions, other attentions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from testbed.compat.architectures.entry import Architecture
from testbed.compat.architectures.timm_models import created

_CONV_NORM = "normalised inside its linear maps, by a batch norm that is folded into them"
_LINEAR_ATTENTION = "an attention without scores of one token for another"


def _timm(
    name: str, family: str, blocks: int, model: str, image: int, absent: Mapping[str, str] | None = None, **sizes: Any
) -> Architecture:
    return Architecture(
        f"timm/{name}", family, "timm", partial(created, model, **sizes), blocks, image, absent=absent or {}
    )


_LEVIT = {
    "norm1": _CONV_NORM,
    "norm2": _CONV_NORM,
    "block.[13].attn.residual": "a downsampling attention, which nothing is added to",
}
_FOUR: Mapping[str, Any] = {"embed_dims": (32, 32, 32, 32), "num_heads": (1, 2, 2, 2)}

HIERARCHICAL = (
    _timm("cait", "CaiT", 4, "cait_xxs24_224", 32, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    _timm("xcit", "XCiT", 4, "xcit_nano_12_p8_224", 32, img_size=32, embed_dim=32, depth=2, num_heads=2),
    _timm(
        *("swin", "Swin", 4, "swin_tiny_patch4_window7_224", 32),
        img_size=32, embed_dim=32, depths=(2, 2), num_heads=(2, 2), window_size=4,
    ),
    _timm(
        *("swinv2", "SwinV2", 4, "swinv2_tiny_window8_256", 32),
        img_size=32, embed_dim=32, depths=(2, 2), num_heads=(2, 2), window_size=4,
    ),
    _timm(
        *("swinv2-cr", "SwinV2", 4, "swinv2_cr_tiny_224", 32),
        img_size=32, embed_dim=32, depths=(2, 2), num_heads=(2, 2), window_size=4,
    ),
    _timm(
        *("crossvit", "CrossViT", 5, "crossvit_tiny_240", 48),
        {"block.[34].mlp.*": "fusion of two streams, without an MLP", "block.[34].norm2": "without an MLP"},
        img_size=48, img_scale=(1.0, 2 / 3), embed_dim=(32, 32), depth=((1, 2, 0),), num_heads=(2, 2), mlp_ratio=(2, 2, 1),
    ),
    _timm(
        *("twins-pcpvt", "Twins", 4, "twins_pcpvt_small", 64),
        img_size=64, depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2), **_FOUR,
    ),
    _timm(
        *("twins-svt", "Twins", 8, "twins_svt_small", 64),
        img_size=64, depths=(2, 2, 2, 2), mlp_ratios=(2, 2, 2, 2), wss=(4, 4, 2, 2), exportable=True, **_FOUR,
    ),
    _timm("pvtv2", "PVTv2", 4, "pvt_v2_b0", 64, depths=(1, 1, 1, 1), **_FOUR),
    _timm("pvtv2-linear", "PVTv2", 4, "pvt_v2_b2_li", 64, depths=(1, 1, 1, 1), **_FOUR),
    _timm(
        *("levit", "LeViT", 5, "levit_128s", 64, _LEVIT),
        img_size=64, embed_dim=(32, 48, 64), key_dim=8, num_heads=(2, 2, 2), depth=(1, 1, 1),
    ),
    _timm("mobilevit", "MobileViT", 9, "mobilevit_xxs", 64),
    _timm(
        *("mobilevitv2", "MobileViT", 9, "mobilevitv2_050", 64),
        {f"attn.{name}": _LINEAR_ATTENTION for name in ("scores", "softmax")},
    ),
    _timm("tinyvit", "TinyViT", 3, "tiny_vit_5m_224", 64, depths=(1, 1, 1, 1), window_sizes=(4, 4, 4, 2), **_FOUR),
    _timm(
        *("coat-lite", "CoaT", 4, "coat_lite_tiny", 64),
        {"attn.scores": _LINEAR_ATTENTION},
        img_size=64, embed_dims=(32, 32, 32, 32), serial_depths=(1, 1, 1, 1), num_heads=8, mlp_ratios=(2, 2, 2, 2),
    ),
    _timm("maxvit", "MaxViT", 8, "maxvit_rmlp_pico_rw_256", 64, img_size=64, embed_dim=(32,) * 4, depths=(1,) * 4),
    _timm(
        *("convit", "ConViT", 2, "convit_tiny", 32),
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, local_up_to_layer=1,
    ),
    _timm(
        *("pit", "PiT", 3, "pit_ti_224", 64),
        img_size=64, patch_size=8, stride=8, base_dims=(16, 16, 16), depth=(1, 1, 1), heads=(1, 2, 2),
    ),
    _timm(
        *("sam", "SAM's ViT", 2, "samvit_base_patch16_224", 32),
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, window_size=2, global_attn_indexes=(1,), exportable=True,
    ),
)  # fmt: skip
