"""Values of image files and arrays, computed by hand from the range of their type."""

import struct

import numpy as np
import pytest
from PIL import Image

from testbed.core.errors import TestbedError, UsageError
from testbed.data import Examples, load
from testbed.data.decoding import decoded
from testbed.data.warn_once import forget_warnings

GREYS = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(path, values, *, sample_format=UNSIGNED, bits=None, photometric=1, little=True):
    """A TIFF file by hand: one strip, not compressed, one channel."""
    order = "<" if little else ">"
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits or 8 * values.dtype.itemsize, 259: 1, 262: photometric}
    tags |= {273: 8 + 2 + 12 * 10 + 4, 277: 1, 278: height, 279: len(data), 339: sample_format}
    long = {273, 279}
    entries = [
        struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", value)
        if tag in long
        else struct.pack(order + "HHI", tag, 3, 1) + struct.pack(order + "HH", value, 0)
        for tag, value in tags.items()
    ]
    head = (b"II*\0" if little else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    path.write_bytes(head + b"".join(entries) + struct.pack(order + "I", 0) + data)
    return path


@pytest.fixture(autouse=True)
def nothing_told_before():
    forget_warnings()


def written(path, image, **options):
    image.save(path, **options)
    return path


def test_16_bits_are_divided_by_65535(tmp_path):
    expected = np.repeat(np.array([[0, 255 / 65535, 256 / 65535, 32768 / 65535, 1]], np.float32)[..., None], 3, 2)
    (tmp_path / "raw.pgm").write_bytes(b"P5 5 1 65535\n" + GREYS.astype(">u2").tobytes())
    for path in (
        written(tmp_path / "a.png", Image.fromarray(GREYS)),
        written(tmp_path / "a.tif", Image.fromarray(GREYS)),
        tiff(tmp_path / "little.tif", GREYS),
        tiff(tmp_path / "big.tif", GREYS, little=False),
        tiff(tmp_path / "white-is-zero.tif", 65535 - GREYS, photometric=0),
        tmp_path / "raw.pgm",
    ):
        pixels = decoded(path)
        assert pixels.dtype == np.float32, path
        np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-7, err_msg=path.name)


def test_a_pgm_of_12_bits_is_divided_by_4095(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    np.testing.assert_allclose(decoded(tmp_path / "a.pgm")[0, :, 0], [0, 2048 / 4095, 1], atol=1e-5)


def test_16_bit_colours_keep_the_upper_8_bits(tmp_path):
    values = np.array([0x00FF, 0x0100, 0xFFFF], ">u2")
    (tmp_path / "a.ppm").write_bytes(b"P6 1 1 65535\n" + values.tobytes())
    np.testing.assert_allclose(decoded(tmp_path / "a.ppm")[0, 0], [1, 1, 255], atol=1)  # Pillow rounds here


def test_floats_in_0_to_1_are_taken_as_they_are(tmp_path):
    values = np.array([[0, 0.25, 1]], np.float32)
    for path in (
        written(tmp_path / "a.tif", Image.fromarray(values)),
        tiff(tmp_path / "b.tif", values, sample_format=3),
    ):
        np.testing.assert_array_equal(decoded(path), np.repeat(values[..., None], 3, 2))


@pytest.mark.parametrize(
    ("values", "sample_format", "message"),
    [
        (np.array([[0, 0.5, 300]], np.float32), FLOAT, r"floats from 0 to 300, not in \[0, 1\]"),
        (np.array([[-1, 0.5, 1]], np.float32), FLOAT, r"floats from -1 to 1, not in"),
        (np.array([[0, np.nan, 1]], np.float32), FLOAT, "floats from nan"),
        (np.array([[-32768, -1, 32767]], np.int16), SIGNED, "signed numbers of 16 bits"),
        (np.array([[-128, -1, 127]], np.int8), SIGNED, "signed numbers of 8 bits"),
        (np.array([[-5, 0, 2**31 - 1]], np.int32), SIGNED, "signed numbers of 32 bits"),
        (np.array([[0, 2**31, 2**32 - 1]], np.uint32), UNSIGNED, "whole numbers of 32 bits"),
    ],
)
def test_what_has_no_range_of_its_own_is_refused(tmp_path, values, sample_format, message):
    with pytest.raises(TestbedError, match=f"image .*a.tif holds .*{message}.*; write it with 8 or 16 bits, unsigned"):
        decoded(tiff(tmp_path / "a.tif", values, sample_format=sample_format))


def test_1_bit_palettes_grey_and_cmyk(tmp_path):
    one = written(tmp_path / "one.png", Image.fromarray(np.array([[False, True]])))
    assert decoded(one)[0, :, 0].tolist() == [0, 255]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    assert decoded(written(tmp_path / "p.png", palette))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    grey = written(tmp_path / "l.png", Image.fromarray(np.array([[7, 250]], np.uint8)))
    assert decoded(grey)[0].tolist() == [[7] * 3, [250] * 3]
    ink = Image.fromarray(np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), "CMYK")
    assert decoded(written(tmp_path / "c.tif", ink))[0].tolist() == [[255] * 3, [0, 255, 255], [0] * 3]


def test_transparency_is_left_out_and_told_once(tmp_path, caplog):
    folder = tmp_path / "photos/cat"
    folder.mkdir(parents=True)
    rgba = np.array([[[200, 100, 50, 0], [1, 2, 3, 255]]], np.uint8)
    grey = np.array([[[200, 0], [100, 255]]], np.uint8)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    opaque = written(folder / "opaque.png", Image.fromarray(rgba | np.array([0, 0, 0, 255], np.uint8)))
    assert decoded(opaque)[0].tolist() == [[200, 100, 50], [1, 2, 3]]
    assert not caplog.messages
    assert decoded(written(folder / "a.png", Image.fromarray(rgba)))[0].tolist() == [[200, 100, 50], [1, 2, 3]]
    assert decoded(written(folder / "b.png", Image.fromarray(grey, "LA")))[0].tolist() == [[200] * 3, [100] * 3]
    transparent = written(folder / "c.png", palette, transparency=b"\x00\x80")
    assert decoded(transparent)[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    assert [message for message in caplog.messages if "a.png is partly transparent" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_exif_orientation_is_left_out_as_torchvision_does_and_told(tmp_path, caplog):
    from testbed.data.torchvision_import import datasets

    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    (tmp_path / "cat").mkdir()
    path = written(tmp_path / "cat/a.png", image, exif=exif)
    np.testing.assert_array_equal(decoded(path), pixels)
    np.testing.assert_array_equal(decoded(path), np.asarray(datasets.ImageFolder(tmp_path)[0][0]))
    assert len(caplog.messages) == 1
    assert "stored turned" in caplog.messages[0]
    assert "exif_transpose" in caplog.messages[0]


def test_16_bits_that_hold_12_are_warned_of(tmp_path, caplog):
    decoded(written(tmp_path / "a.png", Image.fromarray(np.array([[0, 4095]], np.uint16))))
    assert "no value above 4095: read as 0..65535, so it is nearly black" in caplog.messages[0]


def test_further_pages_are_left_out_and_told(tmp_path, caplog):
    first, second = (Image.fromarray(np.full((2, 2), value, np.uint16)) for value in (65535, 0))
    path = written(tmp_path / "a.tif", first, save_all=True, append_images=[second])
    assert (decoded(path) == 1).all()
    assert caplog.messages == [f"image {path} holds 2 images, of which the first is read, as torchvision does"]


def test_8_and_16_bits_in_one_batch_have_one_scale(tmp_path):
    for name, image in (("a", np.full((4, 4), 51, np.uint8)), ("b", np.full((4, 4), 13107, np.uint16))):
        (tmp_path / "cat").mkdir(exist_ok=True)
        written(tmp_path / "cat" / f"{name}.png", Image.fromarray(image))
    batch = load(f"imagefolder:{tmp_path}", preprocess="none").test.batch([0, 1])
    np.testing.assert_allclose(batch, 0.2, atol=1e-7)  # 51 / 255 = 13107 / 65535 = 0.2
    assert batch.dtype == np.float32


@pytest.mark.parametrize("scale", [1 / 255, 1 / 127.5])
def test_arrays_are_converted_by_the_range_of_their_type(scale):
    from testbed.data.preprocess.stated import preprocess_asked

    ours = preprocess_asked({"mean": 0, "std": 1, "scale": scale})
    for values in (
        np.array([[0, 51, 255]], np.uint8),
        np.array([[0, 13107, 65535]], np.uint16),
        np.array([[0, 13107, 65535]], ">u2"),
        np.array([[0, 0.2, 1]], np.float64),
    ):
        pixels = Examples.from_arrays("mine", values[None], np.array([0])).images.pixels(0)
        np.testing.assert_allclose(
            ours.normalised(pixels[None])[0, 0], np.array([[0, 0.2, 1]]) * scale * 255, rtol=1e-6
        )
    bits = Examples.from_arrays("mine", np.array([[[False, True]]]), np.array([0])).images.pixels(0)
    assert bits.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("images", "white"),
    [
        (np.array([0, 255]), 255),
        (np.array([0, 256], np.int16), 4095),
        (np.array([0, 40000], np.uint32), 65535),
        (np.array([0.0, 255.0]), 255),
        (np.array([0.0, 1.0], np.float32) * 4095, 4095),
        (np.array([0, 1]), 1),
    ],
)
def test_the_advice_for_other_arrays_keeps_their_values(images, white):
    with pytest.raises(UsageError) as error:
        Examples.from_arrays("mine", images.reshape(1, 1, 2), np.array([0]))
    assert f"(images / {white} if {white} is white)" in str(error.value)
    assert "astype" not in str(error.value)
    followed = Examples.from_arrays("mine", images.reshape(1, 1, 2) / white, np.array([0]))
    np.testing.assert_allclose(followed.images.pixels(0)[0], images / white, rtol=1e-6)


def test_negative_values_are_told_how_to_become_floats():
    with pytest.raises(UsageError, match=r"go from -1 to 1; give floats in \[0, 1\]: \(images - BLACK\)"):
        Examples.from_arrays("mine", np.array([-1.0, 1.0]).reshape(1, 1, 2), np.array([0]))


def test_nearly_black_arrays_are_warned_of(caplog):
    Examples.from_arrays("mine", np.array([[[0, 1]]], np.uint8), np.array([0]))
    assert "mine: images are uint8 and hold no value above 1: read as 0..255" in caplog.messages[0]
