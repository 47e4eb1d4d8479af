"""ImageNet-S (Gao et al. 2022): ImageNet images of 919, 300 or 50 classes with segmentation masks.

ImageNetS919/validation/<wnid>/*.JPEG, validation-segmentation/<wnid>/*.png, train/<wnid>/*.JPEG (optional)
ImageNetS919/wnids.txt                  optional, one class name a line: labels then index this list
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from testbed.core.errors import TestbedError, UsageError
from testbed.data.collection import Collection, FileImages
from testbed.data.registry import Request, register
from testbed.data.sets.folders import class_folders, class_names

FOLDERS = ("ImageNetS919", "ImageNetS300", "ImageNetS50")
IGNORED = 1000  # the mask's value where the annotators left the class open


def _folder(root: Path) -> Path:
    """The largest version that is there."""
    return next((root / name for name in FOLDERS if (root / name).is_dir()), root / FOLDERS[0])


@register(
    "imagenet-s",
    needs=lambda root: [_folder(root) / "validation"],
    note="ImageNet with segmentation masks, 224 x 224",
    get="it cannot be downloaded freely: make it from ImageNet with github.com/LUSSeg/ImageNet-S",
)
def imagenet_s(request: Request) -> Collection:
    """The published validation part is the test split. Labels index the sorted class folders of ``validation/``, or
    the lines of ``wnids.txt`` (ImageNet's 1,000 sorted class names make a 1,000-class model's outputs match)."""
    folder = _folder(request.root)
    order = folder / "wnids.txt"
    classes = order.read_text().split() if order.is_file() else class_names(folder / "validation")
    has_train = (folder / "train").is_dir()
    return Collection(
        classes=classes,
        train=class_folders(folder / "train", classes, folder) if has_train else None,
        test=class_folders(folder / "validation", classes, folder),
        preprocess="imagenet-crop",
        image=224,
        sorted_by_name=not order.is_file(),
    )


def segmentation_mask(root: Path, image_id: str) -> np.ndarray:
    """The mask of a test image, int64 (H, W): 0 no class, 1.. the class's number in the published list, ``IGNORED``
    left open.

    Same size as the stored image. Raises UsageError for an id that is not of the validation part.
    """
    part, _, rest = image_id.partition("/")
    if part != "validation":
        raise UsageError(f"image {image_id!r} has no mask: only ids 'validation/...' of imagenet-s have one")
    path = (_folder(root) / "validation-segmentation" / rest).with_suffix(".png")
    if not path.is_file():
        raise TestbedError(f"mask {path} is missing: unpack ImageNet-S's validation-segmentation there")
    colours = FileImages([path]).pixels(0).astype(np.int64)
    return colours[..., 0] + 256 * colours[..., 1]  # the published encoding
