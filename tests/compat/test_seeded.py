"""Random weights: what is told of a model is of all of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from testbed.compat.architectures.entry import CLASSES, Architecture
from testbed.compat.exporters import logits_of
from testbed.compat.seeded import built, write_images

DEEP = 24


class FadingGains(nn.Module):
    """Many batch norms whose gains are drawn around zero, as MobileViT's are in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, 4)
        layers = [layer for _ in range(DEEP) for layer in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.SiLU())]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(8, CLASSES)
        for module in self.layers:
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.first(images)).mean((2, 3)))
        return logits


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0 * images.mean((1, 2, 3))[:, None]


def entry(model: type[nn.Module]) -> Architecture:
    return Architecture("timm/none", "None", "timm", model, 1)


def test_the_first_weight_counts_behind_many_norms(tmp_path: Path) -> None:
    model: Any = built(entry(FadingGains))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = logits_of(model)(images)
        model.first.weight[0, 0, 0, 0] += 1
        assert not torch.equal(before, logits_of(model)(images))
    assert not torch.equal(before[0], before[1])
    data = np.load(write_images(entry(FadingGains), model, tmp_path / "images.npz"))
    assert data["images"].shape == (8, 32, 32, 3)
    inputs = torch.from_numpy((data["images"].transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5)
    with torch.no_grad():
        assert np.array_equal(logits_of(model)(inputs).argmax(1).numpy(), data["labels"])


def test_gains_that_begin_alike_are_only_spread() -> None:
    """Those of one begin there; those of zero, at the end of a branch, stay around it."""

    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ones, self.zeros = nn.BatchNorm2d(512), nn.BatchNorm2d(512)
            nn.init.zeros_(self.zeros.weight)

    model: Any = built(entry(Alike))
    for norm, mean in ((model.ones, 1.0), (model.zeros, 0.0)):
        assert norm.weight.detach().mean().item() == pytest.approx(mean, abs=0.05)
        assert norm.weight.detach().std().item() == pytest.approx(0.2, rel=0.2)


def test_a_model_that_does_not_look_at_its_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not depend on the image"):
        write_images(entry(Deaf), built(entry(Deaf)), tmp_path / "images.npz")
    assert not (tmp_path / "images.npz").exists()
