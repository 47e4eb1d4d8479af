"""Other libraries' ViTs: a small model of each, what its modules compute under our names."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

HEADS, TOKENS, HEAD, WIDTH, BLOCKS = 2, 5, 16, 32, 2
BRANCHES = ("q", "k", "v", "scores", "softmax", "context", "proj", "residual")
IN_BLOCK = [
    "norm1",
    "norm2",
    *(f"attn.{b}" for b in BRANCHES),
    *(f"mlp.{b}" for b in ("fc1", "gelu", "fc2", "residual")),
]
SITES = {"patch_embed", "embed", "norm", "head"} | {f"block.{i}.{name}" for i in range(BLOCKS) for name in IN_BLOCK}


def imported(name: str) -> Any:
    importlib.import_module("testbed.data.torchvision_import")  # makes torchvision importable for the libraries
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


class Seen:
    """What modules were fed and returned in one forward pass."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._inputs: dict[nn.Module, Tensor] = {}
        self._outputs: dict[nn.Module, Any] = {}
        handles = [module.register_forward_hook(self._note) for module in model.modules()]
        with torch.no_grad():
            output = model(images)
        self.logits: Tensor = getattr(output, "logits", output)
        for handle in handles:
            handle.remove()

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs:
            self._inputs[module] = inputs[0]
        self._outputs[module] = output

    def fed(self, module: nn.Module) -> Tensor:
        return self._inputs[module]

    def out(self, module: nn.Module) -> Tensor:
        output = self._outputs[module]
        return output[0] if isinstance(output, tuple) else output


def by_heads(x: Tensor) -> Tensor:
    """(B, N, D) -> (B, H, N, d)."""
    return x.reshape(len(x), -1, HEADS, HEAD).transpose(1, 2)


def attention(block: int, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    """q, k, v: (B, H, N, d)."""
    scores = q @ k.transpose(-2, -1) * HEAD**-0.5
    named = {"q": q, "k": k, "v": v, "scores": scores, "softmax": scores.softmax(-1)}
    return {f"block.{block}.attn.{name}": tensor for name, tensor in named.items()}


# ---- libraries: a small model with random parameters, its tensors by our names, its parameters' names from ours


def timm_model(**changes: Any) -> nn.Module:
    library = imported("timm.models.vision_transformer")
    model: nn.Module = library.VisionTransformer(
        img_size=16, patch_size=8, num_classes=5, embed_dim=WIDTH, depth=BLOCKS, num_heads=HEADS, **changes
    )
    return model


def timm_tensors(model: Any, seen: Seen) -> dict[str, Tensor]:
    found = {
        "patch_embed": seen.out(model.patch_embed),
        "embed": seen.fed(model.blocks[0]),
        "norm": seen.out(model.norm),
    }
    for i, b in enumerate(model.blocks):
        q, k, v = seen.out(b.attn.qkv).chunk(3, -1)
        found |= attention(i, by_heads(q), by_heads(k), by_heads(v))
        found |= {
            f"block.{i}.norm1": seen.out(b.norm1),
            f"block.{i}.norm2": seen.out(b.norm2),
            f"block.{i}.attn.context": seen.fed(b.attn.proj),
            f"block.{i}.attn.proj": seen.out(b.attn.proj),
            f"block.{i}.attn.residual": seen.fed(b.norm2),
            f"block.{i}.mlp.fc1": seen.out(b.mlp.fc1),
            f"block.{i}.mlp.gelu": seen.fed(b.mlp.fc2),
            f"block.{i}.mlp.fc2": seen.out(b.mlp.fc2),
            f"block.{i}.mlp.residual": seen.out(b),
        }
    return found | {"head": seen.logits}


def hugging_face_model() -> nn.Module:
    library = imported("transformers")
    config = library.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        intermediate_size=64,
        image_size=16,
        patch_size=8,
        num_labels=5,
    )
    model: nn.Module = library.ViTForImageClassification(config)
    if not hasattr(model.vit, "layers"):
        pytest.skip("this version of transformers names ViT's modules differently")
    return model


def hugging_face_tensors(model: Any, seen: Seen) -> dict[str, Tensor]:
    vit = model.vit
    found = {
        "patch_embed": seen.out(vit.embeddings.patch_embeddings),
        "embed": seen.out(vit.embeddings),
        "norm": seen.out(vit.layernorm),
        "head": seen.logits,
    }
    for i, b in enumerate(vit.layers):
        a = b.attention
        found |= attention(i, *(by_heads(seen.out(part)) for part in (a.q_proj, a.k_proj, a.v_proj)))
        found |= {
            f"block.{i}.norm1": seen.out(b.layernorm_before),
            f"block.{i}.norm2": seen.out(b.layernorm_after),
            f"block.{i}.attn.context": seen.fed(a.o_proj),
            f"block.{i}.attn.proj": seen.out(a.o_proj),
            f"block.{i}.attn.residual": seen.fed(b.layernorm_after),
            f"block.{i}.mlp.fc1": seen.out(b.mlp.fc1),
            f"block.{i}.mlp.gelu": seen.fed(b.mlp.fc2),
            f"block.{i}.mlp.fc2": seen.out(b.mlp.fc2),
            f"block.{i}.mlp.residual": seen.out(b),
        }
    return found


def torchvision_model() -> nn.Module:
    library = imported("torchvision.models.vision_transformer")
    model: nn.Module = library.VisionTransformer(
        image_size=16, patch_size=8, num_layers=BLOCKS, num_heads=HEADS, hidden_dim=WIDTH, mlp_dim=64, num_classes=5
    )
    return model


def torchvision_tensors(model: Any, seen: Seen) -> dict[str, Tensor]:
    encoder = model.encoder
    found = {
        "patch_embed": seen.out(model.conv_proj).flatten(2).transpose(1, 2),
        "embed": seen.fed(encoder.layers),
        "norm": seen.out(encoder.ln),
        "head": seen.logits,
    }
    for i, b in enumerate(encoder.layers):
        a, x = b.self_attention, seen.out(b.ln_1)
        q, k, v = nn.functional.linear(x, a.in_proj_weight, a.in_proj_bias).chunk(3, -1)
        named = attention(i, by_heads(q), by_heads(k), by_heads(v))
        found |= named
        found |= {
            f"block.{i}.norm1": x,
            f"block.{i}.norm2": seen.out(b.ln_2),
            f"block.{i}.attn.context": named[f"block.{i}.attn.softmax"] @ by_heads(v),  # tokens lead what comes after
            f"block.{i}.attn.proj": seen.out(a),
            f"block.{i}.attn.residual": seen.fed(b.ln_2),
            f"block.{i}.mlp.fc1": seen.out(b.mlp[0]),
            f"block.{i}.mlp.gelu": seen.out(b.mlp[1]),
            f"block.{i}.mlp.fc2": seen.out(b.mlp[3]),
            f"block.{i}.mlp.residual": seen.out(b),
        }
    return found


def vit_pytorch_model() -> nn.Module:
    library = imported("vit_pytorch")
    model: nn.Module = library.ViT(
        image_size=16, patch_size=8, num_classes=5, dim=WIDTH, depth=BLOCKS, heads=HEADS, mlp_dim=64, dim_head=HEAD
    )
    return model


def vit_pytorch_tensors(model: Any, seen: Seen) -> dict[str, Tensor]:
    transformer = model.transformer
    return {
        "patch_embed": seen.out(model.to_patch_embedding),
        "embed": seen.fed(transformer),
        "norm": seen.out(transformer.norm),
        "head": seen.logits,
    } | vit_pytorch_blocks(transformer, seen)


def vit_pytorch_blocks(transformer: Any, seen: Seen) -> dict[str, Tensor]:
    """Values of the sites in the blocks of any transformer of that library."""
    found: dict[str, Tensor] = {}
    layers = list(transformer.layers)
    for i, (a, mlp) in enumerate(layers):
        following = layers[i + 1][0].norm if i + 1 < len(layers) else transformer.norm
        norm, fc1, fc2 = (m for m in mlp.net if isinstance(m, nn.LayerNorm | nn.Linear))
        found |= attention(i, *(by_heads(part) for part in seen.out(a.to_qkv).chunk(3, -1)))
        found |= {
            f"block.{i}.norm1": seen.out(a.norm),
            f"block.{i}.norm2": seen.out(norm),
            f"block.{i}.attn.context": seen.fed(a.to_out),
            f"block.{i}.attn.proj": seen.out(a.to_out),
            f"block.{i}.attn.residual": seen.fed(norm),
            f"block.{i}.mlp.fc1": seen.out(fc1),
            f"block.{i}.mlp.gelu": seen.fed(fc2),
            f"block.{i}.mlp.fc2": seen.out(fc2),
            f"block.{i}.mlp.residual": seen.fed(following),
        }
    return found


@dataclass(frozen=True)
class Library:
    """``renamed``: patterns that turn our weight names into the library's."""

    model: Callable[[], nn.Module]
    tensors: Callable[[Any, Seen], dict[str, Tensor]]
    renamed: dict[str, str]


LIBRARIES = {
    "timm": Library(timm_model, timm_tensors, {r"^block\.": "blocks."}),
    "hugging face": Library(
        hugging_face_model,
        hugging_face_tensors,
        {
            r"^head\.": "classifier.",
            r"^norm\.": "vit.layernorm.",
            r"^(cls_token)$": r"vit.embeddings.\1",
            r"^pos_embed$": "vit.embeddings.position_embeddings",
            r"^patch_embed\.proj\.": "vit.embeddings.patch_embeddings.projection.",
            r"^block\.": "vit.layers.",
            r"\.norm1\.": ".layernorm_before.",
            r"\.norm2\.": ".layernorm_after.",
            r"\.attn\.proj\.": ".attention.o_proj.",
            r"\.attn\.([qkv])\.": r".attention.\1_proj.",
        },
    ),
    "torchvision": Library(
        torchvision_model,
        torchvision_tensors,
        {
            r"^head\.": "heads.head.",
            r"^norm\.": "encoder.ln.",
            r"^cls_token$": "class_token",
            r"^pos_embed$": "encoder.pos_embedding",
            r"^patch_embed\.proj\.": "conv_proj.",
            r"^block\.": "encoder.layers.encoder_layer_",
            r"\.norm([12])\.": r".ln_\1.",
            r"\.attn\.proj\.": ".self_attention.out_proj.",
            r"\.attn\.qkv\.": ".self_attention.in_proj_",
            r"\.fc1\.": ".0.",
            r"\.fc2\.": ".3.",
        },
    ),
    "vit-pytorch": Library(
        vit_pytorch_model,
        vit_pytorch_tensors,
        {
            r"^head\.": "mlp_head.",
            r"^norm\.": "transformer.norm.",
            r"^pos_embed$": "pos_embedding",
            r"^patch_embed\.norm_in\.": "to_patch_embedding.1.",
            r"^patch_embed\.proj\.": "to_patch_embedding.2.",
            r"^patch_embed\.norm_out\.": "to_patch_embedding.3.",
            r"^block\.(\d+)\.attn\.qkv": r"transformer.layers.\1.0.to_qkv",
            r"^block\.(\d+)\.attn\.proj": r"transformer.layers.\1.0.to_out.0",
            r"^block\.(\d+)\.norm1": r"transformer.layers.\1.0.norm",
            r"^block\.(\d+)\.norm2": r"transformer.layers.\1.1.net.0",
            r"^block\.(\d+)\.mlp\.fc1": r"transformer.layers.\1.1.net.1",
            r"^block\.(\d+)\.mlp\.fc2": r"transformer.layers.\1.1.net.4",
        },
    ),
}
