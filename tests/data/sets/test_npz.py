"""One's own arrays in an .npz file, and everything that can be wrong with them."""

import io
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from testbed.core.errors import TestbedError, UsageError
from testbed.core.process import resources
from testbed.data import load

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4


def written(tmp_path, **arrays):
    np.savez(tmp_path / "mine.npz", **arrays)
    return f"npz:{tmp_path / 'mine.npz'}"


def test_images_and_labels(tmp_path):
    data = load(written(tmp_path, images=IMAGES, labels=LABELS), preprocess="half")
    assert (len(data.train), len(data.validation), len(data.test)) == (0, 0, 20)
    assert (data.channels, data.image, data.classes) == (3, 6, ["0", "1", "2", "3"])
    assert data.test.ids[19] == "mine/0019"
    np.testing.assert_allclose(data.test.batch([5])[0], IMAGES[5].transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_three_parts_in_medmnist_s_names(tmp_path):
    parts: dict[str, np.ndarray] = {}
    for part, rows in (("train", slice(0, 12)), ("val", slice(12, 16)), ("test", slice(16, 20))):
        parts |= {f"{part}_images": IMAGES[rows, :, :, :1] / 255.0, f"{part}_labels": LABELS[rows, None]}
    data = load(written(tmp_path, classes=np.array(["a", "b", "c", "d"]), **parts))
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    assert (data.channels, data.classes) == (1, ["a", "b", "c", "d"])
    assert data.validation.ids[0] == "mine/validation/0000"
    assert data.test.pixels(0).dtype == np.float32
    np.testing.assert_allclose(data.test.batch([0])[0, 0], IMAGES[16, :, :, 0] / 255, atol=1e-6)


def test_without_val_it_is_cut_from_train(tmp_path):
    arrays = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES[:4], "test_labels": LABELS[:4]}
    data = load(written(tmp_path, **arrays))
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 4)


def with_nan():
    images = IMAGES / 255.0
    images[7, 0, 0, 0] = np.nan
    return images


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": with_nan(), "labels": LABELS}, "image 7 holds NaN or infinity"),
        (
            {"images": IMAGES * 1.0, "labels": LABELS},
            r"image 0 has values outside \[0, 1\]; .*images / 255 if 255 is white",
        ),
        (
            {"images": IMAGES.astype(int), "labels": LABELS},
            r"images are int64, whose white is not told; .*images / 255 if 255 is white",
        ),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS}, r"not \(20, 3, 6, 6\); channels come last"),
        ({"images": IMAGES[0, 0], "labels": LABELS}, r"images must be \(n, H, W\)"),
        ({"images": IMAGES, "labels": LABELS[:19]}, "20 ids, 19 labels and 20 images do not match"),
        ({"images": IMAGES, "labels": LABELS * 1.0}, "labels must be whole numbers"),
        ({"images": IMAGES, "labels": np.eye(20, dtype=int)}, "labels must be whole numbers"),
        ({"images": IMAGES, "labels": LABELS - 1}, r"label -1 of image 'mine/0000' is outside 0\.\.2"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(["a", "b"])}, r"label 2 .* is outside 0\.\.1"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(["a", "b", "a"])}, "classes names 'a' twice"),
        (
            {"images": IMAGES, "labels": LABELS, "classes": np.array([["a", "b", "c"]])},
            r"must be names .*not <U1 \(1, 3\)",
        ),
        ({"images": IMAGES, "labels": LABELS + 10**9}, "classes; between 1 and 32767 are possible"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "its test part has no images"),
        ({"images": IMAGES}, "array 'labels' is missing|array 'images' is unknown"),
        ({"train_images": IMAGES, "train_labels": LABELS}, "array 'test_images' is missing"),
        ({"images": IMAGES, "labels": LABELS, "extra": LABELS}, "array '.*' is unknown"),
    ],
)
def test_bad_arrays(tmp_path, arrays, message):
    with pytest.raises(UsageError, match=message):
        load(written(tmp_path, **arrays))


def test_class_names_as_bytes(tmp_path):
    classes = np.array([name.encode() for name in ("a", "b", "c", "straße")])
    assert load(written(tmp_path, images=IMAGES, labels=LABELS, classes=classes)).classes == ["a", "b", "c", "straße"]


@pytest.mark.parametrize("images", [IMAGES // 16, IMAGES / 255**2])
def test_nearly_black_images_are_told(tmp_path, caplog, images):
    load(written(tmp_path, images=images, labels=LABELS))
    assert "so they are nearly black" in caplog.messages[0]


def test_test_labels_beyond_the_training_classes(tmp_path):
    arrays = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES, "test_labels": LABELS + 1}
    with pytest.raises(UsageError, match=r"label 4 of image 'mine/test/0003' is outside 0\.\.3"):
        load(written(tmp_path, **arrays))


def test_python_objects_are_never_unpickled(tmp_path):
    with pytest.raises(TestbedError, match="holds Python objects"):
        load(written(tmp_path, images=np.array([{"a": 1}, None], object), labels=np.array([0, 1])))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_not_an_npz_file(tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(TestbedError, match=r"mine\.npz .*numpy\.savez"):
        load(f"npz:{tmp_path / 'mine.npz'}")


def test_truncated_file(tmp_path):
    name = written(tmp_path, images=IMAGES, labels=LABELS)
    file = tmp_path / "mine.npz"
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(TestbedError, match="cannot be read"):
        load(name)


def test_a_single_array_file(tmp_path):
    with open(tmp_path / "mine.npz", "wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(TestbedError, match=r"not an \.npz file"):
        load(f"npz:{tmp_path / 'mine.npz'}")


def _npz(folder, shape, numbers):
    """Images whose header says ``shape``, over so many zero bytes, deflated."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(folder / "odd.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(numbers))
        labels = io.BytesIO()
        np.save(labels, np.arange(4) % 2)
        archive.writestr("labels.npy", labels.getvalue())
    return f"npz:{folder / 'odd.npz'}"


@pytest.mark.parametrize(
    ("shape", "numbers", "told"),
    [
        ((2**20, 2**20), 100, r"claims shape \(1048576, 1048576\) and holds"),
        ((2**62, 2**62), 100, "claims shape"),
        ((-4, 8, 8), 256, r"claims shape \(-4, 8, 8\)|cannot be read"),
        ((2**21, 8, 8), 2**27, r"unpacks to 128\.0 MiB of a file of 1"),
    ],
)
def test_arrays_that_claim_more_than_the_file_holds_are_refused(tmp_path, shape, numbers, told):
    with pytest.raises(TestbedError, match=told):
        load(_npz(tmp_path, shape, numbers))


def test_arrays_that_do_not_fit_in_memory_are_refused(tmp_path, monkeypatch):
    name = _npz(tmp_path, (4, 8, 8), 256)
    monkeypatch.setattr(resources, "available_bytes", lambda: 300)
    with pytest.raises(UsageError, match=r"reading .*odd\.npz needs .* of memory"):
        load(name)
