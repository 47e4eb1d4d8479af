"""Random weights of which every one counts, and images for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from testbed.compat.architectures.entry import CLASSES, Architecture
from testbed.compat.exporters import logits_of, quiet

if TYPE_CHECKING:
    from torch import nn

MEAN = STD = 0.5
_IMAGES = 8
_SPREAD = 0.2  # of biases, gains and layer scales
_COARSE = 4  # fields per side of an image's pattern
_GRAIN = 64  # of 256: no two patches are equal


def built(entry: Architecture, seed: int = 0) -> nn.Module:
    """The library's model for inference, all of its parameters random.

    Libraries begin with biases of zero, gains of one and tiny layer scales: faults in them, or behind them, would not show.
    Nor would any behind batch norms whose gains are drawn around zero: they begin with gains of one, too.
    """
    import torch

    torch.manual_seed(seed)
    with quiet():
        model = entry.build().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.affine and module.weight.std() > 0:
                module.weight.fill_(1)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * (parameter.shape[0] / max(1, parameter.numel())) ** 0.5)
            else:
                parameter.add_(_SPREAD * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(_SPREAD * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(1 + _SPREAD * torch.rand(buffer.shape, generator=generator))
    return model


def write_images(entry: Architecture, model: nn.Module, file: Path, seed: int = 0) -> Path:
    """A data set of a few grained random patterns, as NumPy arrays, with the classes that the model gives them."""
    import torch

    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 256 - _GRAIN, (_IMAGES, _COARSE, _COARSE, entry.channels), dtype=np.uint8)
    each = -(-entry.image // _COARSE)
    images = fields.repeat(each, 1).repeat(each, 2)[:, : entry.image, : entry.image]
    images = images + rng.integers(0, _GRAIN, images.shape, dtype=np.uint8)
    inputs = (images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - MEAN) / STD
    with torch.no_grad():
        logits = logits_of(model)(torch.from_numpy(inputs)).numpy()
    if (logits == logits[0]).all():
        raise ValueError("the model's logits do not depend on the image: no fault before its last layers would show")
    np.savez(
        file, images=images, labels=logits.argmax(1), classes=np.array([f"class {number}" for number in range(CLASSES)])
    )
    return file
