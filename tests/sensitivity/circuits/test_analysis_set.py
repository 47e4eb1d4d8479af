"""Corrupt inputs of the same image: its object replaced by the mean colour of what is around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from testbed.core.errors import UsageError
from testbed.data import load
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.rank.images import analysis_set
from testbed.sensitivity.rank.settings import ScoreSettings


def test_the_object_takes_the_colour_around_it_channel_by_channel() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, 4, 4, generator=generator)
    shares = np.zeros((3, 4, 4))
    shares[0, :2] = 1
    shares[1] = 1
    masked = AnalysisSet(images, torch.arange(3), ("a", "b", "c")).with_objects(shares).corrupted("masked")
    given = images.numpy()
    assert np.array_equal(masked[0, :, 2:], given[0, :, 2:])
    for channel in range(2):
        np.testing.assert_allclose(masked[0, channel, :2], given[0, channel, 2:].mean(), rtol=1e-6)
        np.testing.assert_allclose(masked[1, channel], given[1, channel].mean(), rtol=1e-5, atol=1e-7)  # all object
    assert np.array_equal(masked[2], given[2])  # no object


def test_half_a_pixel_is_half_replaced() -> None:
    images = torch.tensor([[[[4.0, 0.0, 0.0, 0.0]]]]).reshape(1, 1, 2, 2)
    masked = AnalysisSet(images, torch.zeros(1), ("a",)).with_objects(np.array([[[0.5, 0], [0, 0]]]))
    colour = (0.5 * 4) / 3.5
    assert masked.corrupted("masked")[0, 0, 0, 0] == pytest.approx(4 + 0.5 * (colour - 4))


def test_without_masks_it_is_refused() -> None:
    with pytest.raises(UsageError, match="these have no masks; name them: --masks DIR"):
        AnalysisSet(torch.zeros(1, 1, 2, 2), torch.zeros(1), ("a",)).corrupted("masked")
    with pytest.raises(UsageError, match="in the images' shape"):
        AnalysisSet(torch.zeros(1, 1, 2, 2), torch.zeros(1), ("a",), torch.zeros(1, 1, 4, 4))


def test_masks_of_a_folder_belong_to_their_images(tmp_path: Path) -> None:
    digits = load("digits")
    settings = ScoreSettings(images=12, corrupt="masked", masks=str(tmp_path))
    plain = analysis_set(digits, ScoreSettings(images=12))
    with pytest.raises(UsageError, match=r"has no mask .*digits"):
        analysis_set(digits, settings)
    for number, name in enumerate(plain.ids):
        mask = np.zeros((8, 8), np.uint8)
        mask[number % 8] = 255
        path = (tmp_path / name).with_suffix(".png")
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)
    masked = analysis_set(digits, settings).corrupted("masked")
    for number in range(12):
        same = [row for row in range(8) if row != number % 8]
        assert torch.equal(masked[number, :, same], plain.images[number, :, same])
        wanted = float(plain.images[number, 0, same].mean())
        np.testing.assert_allclose(masked[number, 0, number % 8], wanted, rtol=1e-5)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save((tmp_path / plain.ids[0]).with_suffix(".png"))
    with pytest.raises(UsageError, match="is 4 x 4 pixels, the image 8 x 8"):
        analysis_set(digits, settings)
