"""The layouts that are known, and which of them a file's names speak for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from testbed.core.errors import TestbedError, UsageError
from testbed.core.words.nearest import unknown
from testbed.models.importers.facts.ledger import INSTEAD
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


def _huggingface(prefix: str, block: str, qkv: tuple[str, str, str], proj: str, fc1: str, fc2: str) -> Layout:
    """``prefix``: of what is no block; ``block`` has its own."""
    return Layout(
        name="huggingface",
        patch_embed={"proj": f"{prefix}embeddings.patch_embeddings.projection"},
        cls_token=f"{prefix}embeddings.cls_token",
        pos_embed=f"{prefix}embeddings.position_embeddings",
        block=block,
        norm1="layernorm_before",
        qkv=qkv,
        proj=proj,
        norm2="layernorm_after",
        fc1=fc1,
        fc2=fc2,
        final={"tokens": (f"{prefix}layernorm", "classifier")},
        patchify="conv",
        norm_eps=1e-12,
    )


def _huggingface_file(prefix: str, blocks: str | None = None) -> Layout:
    """The names in files, of every version of the library. ``blocks``: the blocks' prefix, if another."""
    part = "attention.attention.{}".format
    qkv = (part("query"), part("key"), part("value"))
    return _huggingface(
        prefix,
        (prefix if blocks is None else blocks) + "encoder.layer.{}.",
        qkv,
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )


def _huggingface_memory(prefix: str) -> Layout:
    """The names that version 5 gives in ``state_dict()``."""
    qkv = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    return _huggingface(prefix, prefix + "layers.{}.", qkv, "attention.o_proj", "mlp.fc1", "mlp.fc2")


VIT_PYTORCH_OLD = _vit_pytorch(
    "vit-pytorch-old", "0.norm", "0.fn.to_qkv", "0.fn.to_out.0", "1.norm", "1.fn.net.0", "1.fn.net.3"
)
VIT_PYTORCH = _vit_pytorch("vit-pytorch", "0.norm", "0.to_qkv", "0.to_out.0", "1.net.0", "1.net.1", "1.net.4")
VIT_PYTORCH_SIMPLE = replace(
    _vit_pytorch("vit-pytorch-simple", "0.norm", "0.to_qkv", "0.to_out", "1.net.0", "1.net.1", "1.net.3"),
    final={"tokens": ("transformer.norm", "linear_head")},
    fixed_positions=True,
    proj_bias=False,
)
TIMM = Layout(
    name="timm",
    patch_embed={"proj": "patch_embed.proj"},
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
)
LAYOUTS: tuple[Layout, ...] = (
    VIT_PYTORCH_OLD,
    VIT_PYTORCH,
    VIT_PYTORCH_SIMPLE,
    TIMM,
    _torchvision("mlp.0", "mlp.3"),
    _torchvision("mlp.linear_1", "mlp.linear_2"),  # before 0.15
    _huggingface_file("vit."),
    _huggingface_file(""),
    _huggingface_memory("vit."),
    _huggingface_memory(""),
    _huggingface_file("vit.", blocks=""),  # ViT-MSN's files of version 5
    _huggingface_file("ijepa."),
    _huggingface_memory("ijepa."),
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
