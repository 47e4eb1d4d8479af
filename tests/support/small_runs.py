"""A run folder with a small ViT that has learned the digits: unequal outcomes, trained in seconds."""

from __future__ import annotations

from pathlib import Path

from tests.support.commands import invoke


def train_small_vit(path: Path) -> Path:
    """Three blocks of two heads, 8 epochs; the same weights each time, from the cache where they are there."""
    sizes = ["heads=[2,2,2]", "mlp=[24,24,24]", "width=16", "head_width=8"]
    options = [part for size in sizes for part in ("--set", size)]
    result = invoke("train", "digits", "--dataset", "digits", "--run", path, "--epochs", 8, *options)
    assert result.exit_code == 0, result.output
    return path
