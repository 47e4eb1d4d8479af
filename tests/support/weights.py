"""Models of other libraries with lively weights, their files, and what an import says of them."""

import pytest
import torch

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below

VIT_PYTORCH_SIZES = {
    "image": 8,
    "patch": 2,
    "channels": 3,
    "width": 12,
    "classes": 10,
    "head_width": 64,
    "qkv_bias": False,
}
"""Of a ViT of ours that vit-pytorch can have, too."""


def lively(model, seed=0):
    """Random parameters that keep activations large, so that a wrong activation or epsilon shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 1.5 / p[0].numel() ** 0.5 if p.dim() >= 2 and "pos" not in name and "token" not in name else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale + (name.endswith("weight") and p.dim() == 1))
    return model.eval()


def timm_vit(**changes):
    """A small ViT of timm."""
    module = pytest.importorskip("timm.models.vision_transformer")
    sizes = {
        "img_size": 8,
        "patch_size": 2,
        "num_classes": 5,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 2,
    }
    return lively(module.VisionTransformer(**{**sizes, **changes}))


def torchvision_vit():
    """A small ViT of torchvision."""
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 8, "patch_size": 2, "num_layers": 1, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 11}
    return VisionTransformer(**sizes, num_classes=10)


def saved(folder, content, name="weights.pth"):
    """A file of these weights in the folder."""
    torch.save(content, folder / name)
    return folder / name


def images(channels=3, size=8):
    """Six images of noise."""
    return torch.randn(6, channels, size, size, generator=torch.Generator().manual_seed(9))


def difference(imported, library, x=None):
    """The largest difference of the logits of the imported model and the library's own."""
    x = images() if x is None else x
    with torch.no_grad():
        want = library(x)
        return (imported.model(x) - getattr(want, "logits", want)).abs().max().item()


def stated_facts(imported):
    """(value, source) of every fact of an import, by key."""
    return {row.key: (row.value, row.source) for row in imported.facts}
