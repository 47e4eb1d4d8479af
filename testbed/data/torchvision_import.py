"""The only place that imports torchvision: ``from testbed.data.torchvision_import import datasets, transforms``.

PyTorch's CPU build beside torchvision's CUDA-built wheel (the one package indexes serve by default) cannot load
torchvision's compiled operators, and from then on ``import torchvision`` itself fails: it registers shape functions for
``torchvision::nms`` and ``torchvision::qnms``, whose schemas only the compiled library defines. Nothing here uses these
operators (box suppression, for detectors), so when, and only when, the import fails for that reason, their schemas are
declared and the import is tried again. On any other installation this module is a plain import.
"""

from __future__ import annotations

import sys

import torch

_DECLARED: list[torch.library.Library] = []  # torch.library takes a schema back when its Library object is collected


def _import() -> None:
    if "torchvision" not in sys.modules:  # submodules left by a failed import would not become attributes again
        for left in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[left]
    import torchvision  # noqa: F401


def _import_or_declare() -> None:
    try:
        _import()
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
        _import()


_import_or_declare()

from torchvision import datasets  # noqa: E402
from torchvision.transforms import v2 as transforms  # noqa: E402

__all__ = ["datasets", "imagenet_names", "transforms"]


def imagenet_names() -> list[str]:
    """Names of ImageNet's 1,000 classes, in the order of published models' outputs."""
    from torchvision.models import ViT_B_16_Weights

    return list(ViT_B_16_Weights.DEFAULT.meta["categories"])
