"""Small models that are good at their task, and only by what their blocks write."""

from __future__ import annotations

from collections.abc import Callable

import torch

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.analysis_set import AnalysisSet


def teach(model: ViT, images: AnalysisSet, hold: Callable[[], None] = lambda: None, steps: int = 150) -> None:
    """Train the model on these images until it knows most of them.

    The embedding writes the first half of the stream's width and the head reads the second, so that a model without its
    blocks knows nothing. hold: called after each step to put weights back that must stay as they are.
    """
    assert model.config.final_norm == "none"
    half = model.config.width // 2
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(steps + 1):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("patch_embed.proj"):
                    parameter[half:] = 0
                elif name in ("cls_token", "pos_embed"):
                    parameter[..., half:] = 0
            model.head.weight[:, :half] = 0
            hold()
        if step < steps:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(images.images), images.labels).backward()
            optimiser.step()
    with torch.no_grad():
        right = (model(images.images).argmax(1) == images.labels).float().mean()
    assert right > 0.8
