"""Grow the CIFAR-10 model of six blocks into a ViT-Tiny of twelve at 224 px, and train that on.

    python grow_vit_tiny.py runs/vit cifar10-jpeg/train vit_tiny_224.pth [--images 6000]

Every block becomes two that add half of what it added (Net2Net's idea, arXiv 1511.05641, with halves instead of an
identity); patch kernels and positions are resized. What is written has vit-pytorch's names, for `testbed import`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from testbed.models.config import ViTConfig
from testbed.models.importers import save_vit_pytorch
from testbed.models.vit import ViT
from testbed.models.weights import load_model

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def grown(small: ViT) -> ViT:
    """A model of 224 px, patch 16 and twice the blocks that computes about what ``small`` does."""
    changes = {"image": 224, "patch": 16, "heads": (3,) * 12, "mlp": (768,) * 12}
    large = ViT(ViTConfig.from_json(small.config.to_json() | changes))
    state = {name: value for name, value in small.state_dict().items() if not name.startswith("block.")}
    kernel = state["patch_embed.proj.weight"].reshape(192, 4, 4, 3).permute(0, 3, 1, 2)
    kernel = F.interpolate(kernel, size=16, mode="bilinear") / 16
    state["patch_embed.proj.weight"] = kernel.permute(0, 2, 3, 1).reshape(192, -1)
    cls, grid = state["pos_embed"][:, :1], state["pos_embed"][:, 1:].reshape(1, 8, 8, 192).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=14, mode="bicubic").permute(0, 2, 3, 1).reshape(1, 196, 192)
    state["pos_embed"] = torch.cat([cls, grid], dim=1)
    for name, value in small.state_dict().items():
        if name.startswith("block."):
            _, block, rest = name.split(".", 2)
            half = 0.5 if rest.startswith(("attn.proj", "mlp.fc2")) else 1.0
            for half_step in range(2):
                state[f"block.{2 * int(block) + half_step}.{rest}"] = value * half
    large.load_state_dict(state)
    return large


def pixels_of(folder: Path, images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 3, 32, 32) bytes of ``images`` files drawn at random, and their classes: folders in the order of their names."""
    classes = sorted(child.name for child in folder.iterdir())
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).glob("*.jpg"))]
    chosen = [files[index] for index in torch.randperm(len(files), generator=generator)[:images].tolist()]
    raw = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in chosen])
    return torch.from_numpy(raw).permute(0, 3, 1, 2), torch.tensor([label for _, label in chosen])


def prepared(raw: Tensor) -> Tensor:
    """(N, 3, 224, 224) normalised images of (N, 3, 32, 32) bytes."""
    x = (raw / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return F.interpolate(x, size=224, mode="bilinear", align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("small", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = grown(load_model(options.small / "model.safetensors"))
    raw, labels = pixels_of(options.folder, options.images, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.01)
    steps = len(raw) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-4, total_steps=steps, pct_start=0.1)
    began, right, seen = time.perf_counter(), 0.0, 0
    for step in range(steps):
        part = slice(step * options.batch, (step + 1) * options.batch)
        x, y = raw[part], labels[part]
        x = torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(-1), x)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(prepared(x))
            loss = F.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        right, seen = 0.95 * right + 0.05 * float((logits.argmax(1) == y).float().mean()), 0.95 * seen + 0.05
        if step % 10 == 0:
            print(
                f"{step} of {steps}: loss {loss:.3f}, right lately {right / seen:.3f}, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    save_vit_pytorch(options.to, model)


if __name__ == "__main__":
    main()
