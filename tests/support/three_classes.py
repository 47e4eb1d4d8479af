"""Twelve small images of three classes."""

from __future__ import annotations

import torch

from testbed.sensitivity.circuits.analysis_set import AnalysisSet


def images_of_three_classes() -> AnalysisSet:
    """Noise, brighter the higher the class."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(12) % 3
    images = torch.randn(12, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    return AnalysisSet(images, labels, tuple(f"image-{n}" for n in range(12)))
