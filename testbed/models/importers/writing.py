"""A model of ours -> a state dict in vit-pytorch's layout, bit for bit."""

from __future__ import annotations

import io
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from testbed.core.errors import UsageError
from testbed.core.folder.files import write_bytes
from testbed.models.config import ViTConfig
from testbed.models.importers.layout import Traits
from testbed.models.importers.layouts import VIT_PYTORCH, VIT_PYTORCH_OLD
from testbed.models.vit import ViT


def export_vit_pytorch(model: ViT) -> dict[str, Tensor]:
    """The state dict under vit-pytorch's names; ``import_weights`` gives back the same bits.

    The older layout (PreNorm, final norm in the head) for models without LayerNorms around the patch projection, the
    current one for those with. Raises UsageError, naming the feature, for models that vit-pytorch does not have.
    """
    config = model.config
    if lacking := _inexpressible(config):
        raise UsageError(f"vit-pytorch's layout cannot hold this model: {', '.join(lacking)}")
    traits = Traits(config.depth, config.cls_token, config.patch_norm, config.qkv_bias, config.final_norm)
    layout = VIT_PYTORCH if config.patch_norm else VIT_PYTORCH_OLD
    names = layout.names(traits)
    parameters = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    if config.patchify == "conv":  # (D, C, p, p) -> (D, p p C), the order of vit-pytorch's rearrange
        kernel = parameters["patch_embed.proj.weight"]
        parameters["patch_embed.proj.weight"] = kernel.permute(0, 2, 3, 1).flatten(1).contiguous()
    if layout is VIT_PYTORCH:
        for table in {"cls_token", "pos_embed"} & parameters.keys():
            parameters[table] = parameters[table][0]
    return {names[ours][0]: tensor for ours, tensor in parameters.items()}


def save_vit_pytorch(path: Path, model: ViT) -> None:
    """Writes ``export_vit_pytorch(model)`` as safetensors (.safetensors) or for ``torch.load`` (any other suffix)."""
    tensors = export_vit_pytorch(model)
    if path.suffix == ".safetensors":
        write_bytes(path, safetensors.torch.save(tensors))
        return
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    write_bytes(path, buffer.getvalue())


def _inexpressible(c: ViTConfig) -> list[str]:
    checks = {
        "post-norm blocks": c.norm_order != "pre",
        f"{c.attention} attention": c.attention != "softmax",
        f"position embedding {c.position!r}": c.position != "1d",
        "a bias in q, k and v": c.qkv_bias,
        f"activation {c.activation!r}": c.activation != "gelu",
        "no bias after attention": not c.proj_bias,
        "no final norm": c.final_norm == "none",
        "LayerNorm after a convolution": c.patch_norm and c.patchify == "conv",
        "mean pooling without CLS": c.pooling == "mean_patches" and c.cls_token,
        f"LayerNorm epsilon {c.norm_eps}, not 1e-05": c.norm_eps != VIT_PYTORCH.norm_eps,
        "blocks without attention or MLP": 0 in c.heads or 0 in c.mlp,
    }
    return [feature for feature, present in checks.items() if present]
