"""The layouts that are known, and which of them a file's names speak for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from testbed.core.errors import TestbedError, UsageError
from testbed.core.words.nearest import unknown
from testbed.models.importers.facts.ledger import INSTEAD
from testbed.models.importers.huggingface import HUGGINGFACE
from testbed.models.importers.layout import KeyNames, Layout, Traits
from testbed.models.keys import listed


def _vit_pytorch(name: str, norm1: str, qkv: str, proj: str, norm2: str, fc1: str, fc2: str) -> Layout:
    return Layout(
        name=name,
        patch_embed={"proj": "to_patch_embedding.1"},
        normed_patch_embed={
            "norm_in": "to_patch_embedding.1",
            "proj": "to_patch_embedding.2",
            "norm_out": "to_patch_embedding.3",
        },
        cls_token="cls_token",
        pos_embed="pos_embedding",
        block="transformer.layers.{}.",
        norm1=norm1,
        qkv=(qkv,),
        proj=proj,
        norm2=norm2,
        fc1=fc1,
        fc2=fc2,
        final={"pooled": ("mlp_head.0", "mlp_head.1"), "tokens": ("transformer.norm", "mlp_head")},
        patchify="linear",
        norm_eps=1e-5,
    )


def _torchvision(fc1: str, fc2: str) -> Layout:
    return Layout(
        name="torchvision",
        patch_embed={"proj": "conv_proj"},
        cls_token="class_token",
        pos_embed="encoder.pos_embedding",
        block="encoder.layers.encoder_layer_{}.",
        norm1="ln_1",
        qkv=("self_attention.in_proj_{}",),
        proj="self_attention.out_proj",
        norm2="ln_2",
        fc1=fc1,
        fc2=fc2,
        final={"tokens": ("encoder.ln", "heads.head")},
        patchify="conv",
        norm_eps=1e-6,
    )


VIT_PYTORCH_OLD = _vit_pytorch(
    "vit-pytorch-old", "0.norm", "0.fn.to_qkv", "0.fn.to_out.0", "1.norm", "1.fn.net.0", "1.fn.net.3"
)
VIT_PYTORCH = _vit_pytorch("vit-pytorch", "0.norm", "0.to_qkv", "0.to_out.0", "1.net.0", "1.net.1", "1.net.4")
VIT_PYTORCH_SIMPLE = replace(
    _vit_pytorch("vit-pytorch-simple", "0.norm", "0.to_qkv", "0.to_out", "1.net.0", "1.net.1", "1.net.3"),
    final={"tokens": ("transformer.norm", "linear_head")},
    fixed_positions=True,
    proj_bias=False,
    registers="register_tokens",
)
TIMM = Layout(
    name="timm",
    patch_embed={"proj": "patch_embed.proj"},
    normed_patch_embed={"proj": "patch_embed.proj", "norm_out": "patch_embed.norm"},
    cls_token="cls_token",
    pos_embed="pos_embed",
    block="blocks.{}.",
    norm1="norm1",
    qkv=("attn.qkv",),
    proj="attn.proj",
    norm2="norm2",
    fc1="mlp.fc1",
    fc2="mlp.fc2",
    final={"tokens": ("norm", "head"), "pooled": ("fc_norm", "head")},
    patchify="conv",
    norm_eps=1e-6,
    dist_token="dist_token",
    dist_head="head_dist",
    registers="reg_token",
    embed_norm="norm_pre",
    patch_bias="unless normed",
    layer_scale=("ls1.gamma", "ls2.gamma"),
    qk_norm=("attn.q_norm", "attn.k_norm"),
)
TIMM_GATED = replace(TIMM, gate="mlp.fc1_g", fc1="mlp.fc1_x", activation="silu")
LAYOUTS: tuple[Layout, ...] = (
    VIT_PYTORCH_OLD,
    VIT_PYTORCH,
    VIT_PYTORCH_SIMPLE,
    TIMM,
    TIMM_GATED,
    _torchvision("mlp.0", "mlp.3"),
    _torchvision("mlp.linear_1", "mlp.linear_2"),  # before 0.15
    *HUGGINGFACE,
)
ANCHORS: tuple[str, ...] = tuple(dict.fromkeys(f"{layout.patch_embed['proj']}.weight" for layout in LAYOUTS))
LAYOUT_NAMES: tuple[str, ...] = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))


def names_in(layout: Layout, tensors: Mapping[str, Tensor]) -> tuple[Traits, KeyNames]:
    """What the file's names say of the model, and the names that such a model would have in this layout."""
    table = tensors.get(layout.pos_embed)
    traits = layout.traits(tensors.keys(), table.shape[-2] if table is not None and table.dim() > 1 else 0)
    return traits, layout.names(traits)


def recognised(tensors: Mapping[str, Tensor], asked: str | None, where: str) -> Layout:
    """The layout (of the asked name, if any) whose names explain most of the tensors. "vit-pytorch" asks for either.

    Raises UsageError for an unknown name, TestbedError when fewer than half of the tensors are explained.
    """
    if asked is not None and asked not in LAYOUT_NAMES:
        raise UsageError(unknown("layout", asked, LAYOUT_NAMES))

    def explained(layout: Layout) -> int:
        wanted = {theirs for group in names_in(layout, tensors)[1].values() for theirs in group}
        return len(wanted & tensors.keys())

    candidates = [layout for layout in LAYOUTS if layout.name.startswith(asked or "")]
    best = max(candidates, key=explained)
    if 2 * explained(best) <= len(tensors):
        kind = f"the layout {asked!r}" if asked else f"any known layout ({', '.join(LAYOUT_NAMES)})"
        raise TestbedError(
            f"{where}: its keys do not follow {kind}; they begin {listed(tensors)}; for another model: {INSTEAD}"
        )
    return best
