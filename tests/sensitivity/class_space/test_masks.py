import numpy as np
import pytest
from PIL import Image

from testbed.core.errors import TestbedError
from testbed.data.collection import Examples
from testbed.data.dataset import Split
from testbed.data.preprocess.steps import Preprocess, preprocess_named
from testbed.models.config import ViTConfig, uniform
from testbed.sensitivity.class_space.masks import PatchMasks, patch_masks


def config() -> ViTConfig:
    return uniform(1, 1, 4, image=8, patch=4, channels=1, width=4, classes=2, head_width=4)


def split_of(height: int, width: int, preprocess: Preprocess) -> Split:
    examples = Examples.from_arrays("drawn", np.zeros((1, height, width), np.uint8), np.zeros(1, np.int64))
    return Split(examples, np.arange(1), 8, preprocess)


def test_a_patch_is_on_the_object_where_half_of_it_is():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True  # half of the first patch
    mask[4, 4:] = True  # a quarter of the last
    masks = PatchMasks(lambda image_id: mask, 2)
    assert masks.patches(split_of(8, 8, preprocess_named("half")), 0).tolist() == [True, False, False, False]


def test_a_mask_goes_through_the_images_own_crop():
    """The centre 8 x 8 of 8 x 16: its left half is columns 4 to 8."""
    mask = np.zeros((8, 16), bool)
    mask[:, 4:8] = True
    masks = PatchMasks(lambda image_id: mask, 2)
    assert masks.patches(split_of(8, 16, preprocess_named("half")), 0).tolist() == [True, False, True, False]


def test_imagenet_s_masks_count_any_class_and_leave_out_what_is_open(tmp_path):
    number = np.zeros((8, 8), np.int64)
    number[:4, :4], number[:4, 4:], number[4:, :4] = 300, 1000, 7  # a class, left open, another class
    colours = np.stack([number % 256, number // 256, np.zeros_like(number)], axis=-1).astype(np.uint8)
    path = tmp_path / "ImageNetS919" / "validation-segmentation" / "n01" / "a.png"
    path.parent.mkdir(parents=True)
    (tmp_path / "ImageNetS919" / "validation").mkdir()
    Image.fromarray(colours).save(path)
    examples = Examples(["validation/n01/a.JPEG", "validation/n01/b.JPEG"], np.zeros(2, np.int64), _Zeros())
    split = Split(examples, np.arange(2), 8, preprocess_named("half"))
    masks = patch_masks("imagenet-s", config(), str(tmp_path))
    assert masks.patches(split, 0).tolist() == [True, False, True, False]
    with pytest.raises(TestbedError, match=r"b\.png is missing"):
        masks.patches(split, 1)


class _Zeros:
    def __len__(self) -> int:
        return 2

    def pixels(self, row: int) -> np.ndarray:
        return np.zeros((8, 8), np.uint8)

    def content(self, row: int) -> bytes:
        return b""
