"""How Hugging Face's Vision Transformers name their parameters, in files and in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from testbed.models.config import FinalNorm
from testbed.models.importers.layout import Layout

FinalModules = Mapping[FinalNorm, tuple[str, str]]


def _vit(prefix: str, block: str, qkv: tuple[str, str, str], proj: str, fc1: str, fc2: str) -> Layout:
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
        model_type="vit",
    )


_part = "attention.attention.{}".format
_IN_FILES = (_part("query"), _part("key"), _part("value"))
_IN_MEMORY = ("attention.q_proj", "attention.k_proj", "attention.v_proj")


def _file(prefix: str, blocks: str | None = None) -> Layout:
    """The names in files, of every version of the library. ``blocks``: the blocks' prefix, if another."""
    block = (prefix if blocks is None else blocks) + "encoder.layer.{}."
    return _vit(prefix, block, _IN_FILES, "attention.output.dense", "intermediate.dense", "output.dense")


def _memory(prefix: str) -> Layout:
    """The names that version 5 gives in ``state_dict()``."""
    return _vit(prefix, prefix + "layers.{}.", _IN_MEMORY, "attention.o_proj", "mlp.fc1", "mlp.fc2")


def _deit(of: Layout) -> tuple[Layout, Layout]:
    """DeiT with a head that reads CLS alone, and with another for the distillation token."""
    with_token = replace(of, dist_token="deit.embeddings.distillation_token", model_type="deit")
    final: FinalModules = {"tokens": ("deit.layernorm", "cls_classifier")}
    return with_token, replace(with_token, final=final, dist_head="distillation_classifier")


def _dinov2(model_type: str) -> tuple[Layout, ...]:
    prefix = f"{model_type}."
    file = replace(
        _file(prefix),
        norm1="norm1",
        norm2="norm2",
        fc1="mlp.fc1",
        fc2="mlp.fc2",
        layer_scale=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        registers=f"{prefix}embeddings.register_tokens",
        registers_last=True,
        norm_eps=1e-6,
        pooling="cls_and_mean",
        unused=(f"{prefix}embeddings.mask_token",),
        model_type=model_type,
    )
    memory = replace(file, qkv=_IN_MEMORY, proj="attention.o_proj")
    gated = [
        replace(layout, activation="silu", gate="mlp.gate_proj", fc1="mlp.up_proj", fc2="mlp.down_proj")
        for layout in (file, memory)
    ]
    return (file, memory, *gated)


def _tower(model_type: str, **changes: object) -> Layout:
    """The image half of CLIP and SigLIP, with a classifier."""
    embeddings = "vision_model.embeddings."
    qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    of_vit = _vit("vision_model.", "vision_model.encoder.layers.{}.", qkv, "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    tower = replace(
        of_vit,
        patch_embed={"proj": f"{embeddings}patch_embedding"},
        cls_token=f"{embeddings}class_embedding",
        pos_embed=f"{embeddings}position_embedding.weight",
        norm1="layer_norm1",
        norm2="layer_norm2",
        model_type=model_type,
    )
    return replace(tower, **changes)  # type: ignore[arg-type]


_CLIP = _tower(
    "clip",
    embed_norm="vision_model.pre_layrnorm",
    patch_bias="never",
    final={"none": ("", "classifier")},
    unused=("vision_model.post_layernorm.", "vision_model.embeddings.position_ids"),
    norm_eps=1e-5,
    activation="quick_gelu",
    pooling="mean_patches",
)
_SIGLIP = _tower(
    "siglip",
    final={"tokens": ("vision_model.post_layernorm", "classifier")},
    unused=("vision_model.head.", "vision_model.embeddings.position_ids"),
    norm_eps=1e-6,
    activation="gelu_tanh",
    pooling="mean",
)
HUGGINGFACE: tuple[Layout, ...] = (
    *(_file("vit."), _file(""), _memory("vit."), _memory("")),
    _file("vit.", blocks=""),  # ViT-MSN's files of version 5
    *(_file("ijepa."), _memory("ijepa.")),
    *_deit(_file("deit.")),
    *_deit(_memory("deit.")),
    *_dinov2("dinov2"),
    *_dinov2("dinov2_with_registers"),
    *(_CLIP, _SIGLIP),
)
