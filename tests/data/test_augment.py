"""Augmentations: seeded per image, and each one doing what its name says and no more."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from testbed.core.errors import UsageError
from testbed.data import Collection, Examples, load, register, registry
from testbed.data.augment import augmentation, augmented_batch

NAMES = ["none", "shift", "baseline", "strong", "cutout", "autoaugment", "vit-224"]


@pytest.fixture(params=["uint8 colour", "float grey"])
def split(request, monkeypatch):
    """40 smooth bright images, 32 x 32."""
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.entries()))
    grid = np.linspace(0.3, 0.9, 32)
    images = np.broadcast_to(grid[:, None] * 0.5 + grid * 0.5, (40, 32, 32)).copy()
    images[:, 12:20, 12:20] = 0.95
    if request.param == "uint8 colour":
        images = (np.stack([images, images * 0.8, images * 0.6], axis=-1) * 255).astype(np.uint8)
    whole = Examples.from_arrays("smooth", images, np.zeros(40, int))
    register("smooth")(lambda request: Collection(["smooth"], whole, preprocess="half"))
    return load("smooth").test


def drawn(split, name, positions=range(40), seed=0, epoch=0):
    return augmented_batch(split, np.array(positions), name, seed=seed, epoch=epoch)


@pytest.mark.parametrize("name", NAMES)
def test_same_draw_for_an_image_whatever_the_batch(split, name):
    whole = drawn(split, name)
    assert whole.dtype == np.float32
    assert whole.shape == split.batch(slice(None)).shape
    assert np.isfinite(whole).all()
    torch.manual_seed(123)
    np.testing.assert_array_equal(drawn(split, name, [31, 4]), whole[[31, 4]])


@pytest.mark.parametrize("name", NAMES[1:])
def test_images_epochs_and_seeds_differ(split, name):
    first = drawn(split, name)
    assert len(np.unique(first.reshape(40, -1), axis=0)) > 1
    assert not np.array_equal(first, drawn(split, name, epoch=1))
    assert not np.array_equal(first, drawn(split, name, seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_the_process_s_generator_is_left_alone(split, name):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    drawn(split, name, [0, 1])
    assert torch.equal(before, torch.get_rng_state())


def shifted(image, down, right, pad):
    """The (C, S, S) image moved, black (-1 after "half") coming in."""
    size = image.shape[1]
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), constant_values=-1)
    return padded[:, pad - down : pad - down + size, pad - right : pad - right + size]


def is_shift_or_flip(image, plain, reach=4):
    moves = [(d, r) for d in range(-reach, reach + 1) for r in range(-reach, reach + 1)]
    return any(np.array_equal(image, shifted(plain, d, r, reach)[..., ::step]) for d, r in moves for step in (1, -1))


def test_none_is_the_plain_batch(split):
    np.testing.assert_array_equal(drawn(split, "none"), split.batch(slice(None)))


def test_baseline_shifts_up_to_four_pixels_and_flips_half(split):
    plain = split.batch([0])[0]
    images = drawn(split, "baseline")
    assert all(is_shift_or_flip(image, plain) for image in images)
    unflipped = [
        any(np.array_equal(i, shifted(plain, d, r, 4)) for d in range(-4, 5) for r in range(-4, 5)) for i in images
    ]
    assert 8 < sum(unflipped) < 32
    assert not all(is_shift_or_flip(image, plain, reach=3) for image in images)


def test_shift_moves_by_one_pixel_at_most(split):
    plain = split.batch([0])[0]
    inner = {drawn(split, "shift", [i])[0, :, 1:-1, 1:-1].tobytes() for i in range(40)}
    moves = [np.ascontiguousarray(plain[:, 1 + d : 31 + d, 1 + r : 31 + r]) for d in (-1, 0, 1) for r in (-1, 0, 1)]
    assert inner == {move.tobytes() for move in moves}


def test_cutout_is_baseline_with_a_mean_coloured_box_half_of_the_time(split):
    before, after = drawn(split, "baseline"), drawn(split, "cutout")
    changed = (before != after).any(axis=1)
    assert (after.transpose(0, 2, 3, 1)[changed] == 0).all()  # 0 after normalisation: the mean
    share = changed.mean(axis=(1, 2))
    erased = share[share > 0]
    assert 8 < len(erased) < 32
    assert erased.max() < 0.36
    for mask in changed[share > 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.99  # one box


def test_strong_and_autoaugment_go_beyond_baseline(split):
    plain = split.batch([0])[0]
    for name in ("strong", "autoaugment"):
        assert sum(not is_shift_or_flip(image, plain) for image in drawn(split, name)) > 20


def test_vit_224_crops_at_32_pixels_and_enlarges(split):
    large = replace(split, image=64)
    images = drawn(large, "vit-224")
    assert images.shape[2:] == (64, 64)
    small = drawn(split, "vit-224")  # the same draws, not enlarged
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(small), 64, mode="bilinear", antialias=True)
    np.testing.assert_allclose(images, enlarged.numpy(), atol=1.01 / 127.5)  # rounding to 8 bits


def test_unknown_name():
    with pytest.raises(UsageError, match=r"unknown augmentation 'cutup'; did you mean 'cutout'\? Known: none, shift"):
        augmentation("cutup", 32)
