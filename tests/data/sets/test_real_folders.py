"""Folders as they lie on people's disks: what is in them is what torchvision's ImageFolder has, and pixels are Pillow's."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from testbed.core.errors import TestbedError
from testbed.data import load
from testbed.data.sets.folders import IMAGE_SUFFIXES
from testbed.data.torchvision_import import datasets
from testbed.data.warn_once import forget_warnings

MODES = ("RGB", "L", "P", "LA", "RGBA", "CMYK", "1")


@pytest.fixture(autouse=True)
def nothing_told_before():
    forget_warnings()


def picture(mode="RGB"):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)).convert(mode)


def opaque(image):
    image = image.copy()
    if "A" in image.getbands():
        image.putalpha(255)
    return image


@pytest.fixture
def folder(tmp_path):
    """Two classes of every format and mode, under odd names."""
    base = tmp_path / "a folder"
    cats, others = base / "cat", base / "déjà vu 猫"
    (others / "deeper" / "Still deeper").mkdir(parents=True)
    cats.mkdir()
    for number, suffix in enumerate(IMAGE_SUFFIXES):
        kind = {".pgm": "L"}.get(suffix, "RGB")
        picture(kind).save(cats / f"{number}{suffix.upper() if number % 2 else suffix}")
    for mode in MODES:
        opaque(picture(mode)).save(others / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
    for name in ("it's 100% #1 [x]?.png", " leading space.png", "a.b.c.png", "Ünïcode.png", "new\nline.png"):
        picture().save(others / "deeper" / name)
    picture().save(others / "deeper" / "Still deeper" / "z.png")
    return base


def reference(folder):
    """ImageFolder's relative paths and labels."""
    listed = datasets.ImageFolder(folder)
    return [(os.path.relpath(path, folder), label) for path, label in listed.samples], listed


def test_files_and_order_are_imagefolders(folder):
    data = load(f"imagefolder:{folder}")
    wanted, _ = reference(folder)
    assert list(zip(data.test.ids, data.test.labels.tolist(), strict=True)) == wanted
    assert len(wanted) == len(IMAGE_SUFFIXES) + len(MODES) + 6


def test_pixels_are_those_of_imagefolder(folder):
    data = load(f"imagefolder:{folder}")
    _, listed = reference(folder)
    for position, (image, _label) in enumerate(listed):
        np.testing.assert_array_equal(data.test.pixels(position), np.asarray(image))


def test_what_systems_leave_beside_the_images_is_left_out(folder):
    wanted = load(f"imagefolder:{folder}").test.ids
    for name in (".DS_Store", "Thumbs.db", "._0.jpg", "desktop.ini", ".hidden.png"):
        (folder / "cat" / name).write_bytes(b"no image")
        (folder / name).write_bytes(b"no image")
    shutil.copytree(folder / "cat", folder / "cat" / ".ipynb_checkpoints")
    assert load(f"imagefolder:{folder}").test.ids == wanted


def test_links_are_followed_out_of_the_folder(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    picture().save(elsewhere / "far.png")
    (folder / "cat" / "link.png").symlink_to(elsewhere / "far.png")
    (folder / "cat" / "more").symlink_to(elsewhere)
    (folder / "dog").symlink_to(elsewhere)
    data = load(f"imagefolder:{folder}")
    wanted, _ = reference(folder)
    assert list(zip(data.test.ids, data.test.labels.tolist(), strict=True)) == wanted
    assert {"cat/link.png", "cat/more/far.png", "dog/far.png"} <= set(data.test.ids)


def test_links_that_never_end_are_left_out_and_told(folder, tmp_path, caplog):
    wanted = load(f"imagefolder:{folder}").test.ids
    (folder / "cat" / "again").symlink_to(folder)
    (folder / "cat" / "self").symlink_to(folder / "cat")
    away = tmp_path / "away"
    away.mkdir()
    (away / "back").symlink_to(folder / "cat")
    (folder / "cat" / "via").symlink_to(away)
    assert load(f"imagefolder:{folder}").test.ids == wanted
    assert "is a link to a folder that it lies in" in caplog.text


def test_a_link_to_nothing_is_named(folder):
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    data = load(f"imagefolder:{folder}")
    with pytest.raises(TestbedError, match=r"cat/gone\.png is missing"):
        data.test.pixels(data.test.position("cat/gone.png"))


def test_names_that_are_no_unicode_are_refused_by_name(folder):
    with open(os.fsencode(folder / "cat") + b"/\xff.png", "wb") as file:
        picture().save(file, "png")
    with pytest.raises(TestbedError, match=r"is not UTF-8; rename it"):
        load(f"imagefolder:{folder}")


@pytest.mark.parametrize("keep", [0, 20, 0.5])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp"])
def test_a_truncated_file_is_named(folder, suffix, keep):
    path = folder / "cat" / f"cut.{suffix}"
    picture().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    data = load(f"imagefolder:{folder}")
    with pytest.raises(TestbedError, match=rf"cut\.{suffix} cannot be decoded"):
        data.test.pixels(data.test.position(f"cat/cut.{suffix}"))
