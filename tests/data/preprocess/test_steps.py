"""Preprocessing against torchvision's own transforms, bit for bit where it works on image files."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from testbed.data import torchvision_import  # noqa: F401  before torchvision itself
from testbed.data.preprocess.steps import INTERPOLATIONS, PREPROCESS, preprocess_named

from torchvision import transforms  # isort: skip


def random_image(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def model_input(preprocess, pixels, size):
    return preprocess.normalised(preprocess.fitted(pixels, size)[None])[0]


@given(
    height=st.integers(5, 70),
    width=st.integers(5, 70),
    size=st.integers(4, 48),
    name=st.sampled_from(["cifar10", "imagenet-crop", "half", "none"]),
    channels=st.sampled_from([1, 3]),
)
def test_equals_torchvision_s_evaluation_transforms(height, width, size, name, channels):
    preprocess = preprocess_named("half" if channels == 1 and len(PREPROCESS[name].mean) == 3 else name)
    pixels = random_image(height, width, channels)
    theirs = transforms.Compose(
        [
            transforms.Resize(round(size * preprocess.margin)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    np.testing.assert_array_equal(model_input(preprocess, pixels, size), theirs(Image.fromarray(pixels)).numpy())


def test_an_image_that_fits_is_untouched():
    pixels = random_image(8, 8)
    np.testing.assert_array_equal(preprocess_named("none").fitted(pixels, 8), pixels)


def test_the_stored_pixels_are_not_changed():
    pixels = random_image(8, 8, 1).astype(np.float32) / 255
    before = pixels.copy()
    model_input(preprocess_named("half"), pixels, 8)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_float_images_resize_as_uint8_images_do(channels):
    pixels = random_image(20, 14, channels)
    none = preprocess_named("none")
    from_floats = model_input(none, pixels.astype(np.float32) / 255, 9)
    assert from_floats.dtype == np.float32
    np.testing.assert_allclose(from_floats, model_input(none, pixels, 9), atol=1.01 / 255)  # two roundings to 8 bits


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_floats_and_bytes_agree_at_sharp_edges(interpolation):
    pixels = np.zeros((20, 14), np.uint8)
    pixels[:, 5:9] = 255
    none = replace(preprocess_named("none"), interpolation=interpolation)
    from_floats = model_input(none, pixels.astype(np.float32) / 255, 9)
    np.testing.assert_allclose(from_floats, model_input(none, pixels, 9), atol=1.01 / 255)


def test_constants_are_those_of_the_published_sets():
    from sklearn.datasets import load_digits

    images = load_digits().images / 16
    assert PREPROCESS["digits"].mean[0] == pytest.approx(images.mean(), abs=1e-4)
    assert PREPROCESS["digits"].std[0] == pytest.approx(images.std(), abs=1e-4)
    assert PREPROCESS["cifar10"].mean == (0.4914, 0.4822, 0.4465)
    assert PREPROCESS["cifar10"].std == (0.2023, 0.1994, 0.2010)
