"""The digits as image files: all of them, once, and read back as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TOOL = Path(__file__).parents[2] / "tools" / "digits_folder.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=120)


def test_every_digit_is_there_once_under_its_class(tmp_path: Path) -> None:
    done = run(str(tmp_path / "digits"))
    assert done.returncode == 0, done.stderr
    digits = load_digits()
    files = sorted((tmp_path / "digits").glob("*/*/*.png"), key=lambda file: int(file.stem))
    assert [int(file.stem) for file in files] == list(range(len(digits.images)))
    assert [int(file.parent.name) for file in files] == digits.target.tolist()
    splits = [file.parts[-3] for file in files]
    assert (splits.count("train"), splits.count("test")) == (1437, 360)
    for number in (0, 1796):
        pixels = np.asarray(Image.open(files[number]))
        assert pixels.shape == (8, 8, 3)
        np.testing.assert_allclose(pixels[..., 0].astype(float) * 16 / 255, digits.images[number], atol=0.04)


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path} exists; name a folder that does not\n"
    assert not list(tmp_path.iterdir())
