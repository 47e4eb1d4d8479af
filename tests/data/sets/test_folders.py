"""Folders of image files: order, labels and ids are torchvision's and the paths'."""

import numpy as np
import pytest

from testbed.core.errors import TestbedError, UsageError
from testbed.data import load
from testbed.data.torchvision_import import datasets


def test_a_folder_of_class_folders_is_a_test_only_data_set(class_folder):
    folder = class_folder("photos", classes=("dog", "cat", "10", "9"))
    data = load(f"imagefolder:{folder}")
    theirs = datasets.ImageFolder(folder)
    assert (len(data.train), len(data.validation), len(data.test)) == (0, 0, 16)
    assert data.classes == theirs.classes == ["10", "9", "cat", "dog"]
    assert data.test.labels.tolist() == theirs.targets
    assert [str(folder / i) for i in data.test.ids] == [path for path, _ in theirs.samples]
    for position in (0, 9):
        np.testing.assert_array_equal(data.test.pixels(position), np.asarray(theirs[position][0]))


def test_train_and_test(class_folder):
    class_folder("photos/train", count=10)
    folder = class_folder("photos/test", count=3).parent
    data = load(f"imagefolder:{folder}")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 2, 6)
    assert data.test.ids[0] == "test/cat/00.png"
    assert sorted(data.validation.labels) == [0, 1]
    assert not set(data.train.ids) & set(data.validation.ids)


def test_train_and_val_only(class_folder):
    class_folder("photos/train", count=10)
    folder = class_folder("photos/val", count=3).parent
    data = load(f"imagefolder:{folder}")
    assert data.test.ids[0] == "val/cat/00.png"
    assert len(data.validation) == 2


def test_train_val_and_test(class_folder):
    class_folder("photos/train", count=10)
    class_folder("photos/val", count=2)
    folder = class_folder("photos/test", count=3).parent
    data = load(f"imagefolder:{folder}")
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 6)
    assert data.validation.ids[0] == "val/cat/00.png"


def test_a_test_part_may_lack_a_class_but_not_bring_one(class_folder):
    class_folder("photos/train", classes=("ant", "cat", "dog"), count=10)
    folder = class_folder("photos/test", classes=("cat", "dog")).parent
    assert set(load(f"imagefolder:{folder}").test.labels) == {1, 2}
    class_folder("photos/test", classes=("elk",))
    with pytest.raises(TestbedError, match="test/elk is not one of the 3 known classes"):
        load(f"imagefolder:{folder}")


@pytest.mark.parametrize("only", ["train", "test"])
def test_half_a_data_set_is_not_taken_for_one_class(class_folder, only):
    folder = class_folder(f"photos/{only}").parent
    with pytest.raises(UsageError, match=f"holds only {only}.*write imagefolder:.*{only}"):
        load(f"imagefolder:{folder}")


def test_sizes_differ_and_grey_becomes_rgb(class_folder, image_file):
    folder = class_folder("photos", size=12)
    image_file(folder / "cat/98.png", seed=1, height=30, width=20)
    image_file(folder / "cat/99.png", seed=1, height=8, width=9, mode="L")
    data = load(f"imagefolder:{folder}")
    assert data.test.batch(slice(None)).shape == (10, 3, 12, 12)


def test_a_corrupt_image_is_named(class_folder):
    folder = class_folder("photos")
    bad = folder / "dog/02.png"
    bad.write_bytes(bad.read_bytes()[:60])
    data = load(f"imagefolder:{folder}")
    data.test.batch([0, 1])
    with pytest.raises(TestbedError, match=f"image {bad} cannot be decoded"):
        data.test.batch(slice(None))


def test_an_image_that_has_gone_is_named(class_folder):
    folder = class_folder("photos")
    data = load(f"imagefolder:{folder}")
    (folder / "dog/02.png").unlink()
    with pytest.raises(TestbedError, match=r"dog/02\.png is missing"):
        data.test.batch([6])
    with pytest.raises(TestbedError, match=r"dog/02\.png"):
        data.test.sha256()


def test_empty_class_folder(class_folder):
    folder = class_folder("photos")
    (folder / "elk").mkdir()
    with pytest.raises(TestbedError, match="no images in class folder elk; fill it or take it out"):
        load(f"imagefolder:{folder}")


def test_no_class_folders(tmp_path):
    with pytest.raises(TestbedError, match="holds no class folders"):
        load(f"imagefolder:{tmp_path}")


def test_missing_folder(tmp_path):
    with pytest.raises(TestbedError, match="absent is missing; check the path"):
        load(f"imagefolder:{tmp_path / 'absent'}")


def test_hash_follows_bytes_order_and_labels(class_folder):
    folder = class_folder("photos")
    before = load(f"imagefolder:{folder}").test
    assert before.sha256() == load(f"imagefolder:{folder}", image=24).test.sha256()
    assert before.sha256() != before.subset([1, 0, *range(2, 8)]).sha256()
    (folder / "cat/00.png").write_bytes((folder / "cat/01.png").read_bytes())
    assert before.sha256() != load(f"imagefolder:{folder}").test.sha256()


def test_tiny_imagenet(tiny_files):
    root, folder = tiny_files
    data = load("tiny-imagenet", root=root)
    assert data.classes == ["goldfish", "bullfrog", "n03"]  # sorted by wnid: n01, n02, n03
    assert (len(data.train), len(data.validation), len(data.test)) == (27, 3, 6)
    assert data.test.ids[:2] == ["val/val_0.JPEG", "val/val_1.JPEG"]
    assert data.test.labels.tolist() == [1, 0, 2, 1, 0, 2]  # n02, n01, n03, ...
    theirs = datasets.ImageFolder(folder / "train")
    label_of = {path.removeprefix(f"{folder}/"): label for path, label in theirs.samples}
    assert [label_of[i] for i in data.train.ids] == data.train.labels.tolist()
    assert data.train.batch(slice(None)).shape == (27, 3, 64, 64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "val/images/val_3.JPEG").unlink(),
            "images and val_annotations.txt do not match, see 'val_3.JPEG'",
        ),
        (lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG\tn77\t0\n"), "line 1: 'n77' is not a class"),
        (lambda f: (f / "val/val_annotations.txt").write_text("val_0.JPEG\n"), "line 1: '' is not a class"),
        (lambda f: (f / "wnids.txt").write_text("n01\nn02\nn03\nn04\n"), "n04 is missing but in wnids.txt"),
        (lambda f: (f / "wnids.txt").write_text("n01\nn02\n"), "n03 is not one of the 2 known classes"),
        (lambda f: (f / "words.txt").unlink(), "words.txt is missing; download it"),
    ],
)
def test_tiny_imagenet_spoilt(tiny_files, spoil, message):
    root, folder = tiny_files
    spoil(folder)
    with pytest.raises(TestbedError, match=message):
        load("tiny-imagenet", root=root)


def test_imagenet_s(tmp_path, image_file):
    from testbed.data.sets.imagenet_s import IGNORED, segmentation_mask

    folder = tmp_path / "ImageNetS50"
    for wnid in ("n02", "n01"):
        image_file(folder / "validation" / wnid / "a.JPEG", seed=1, height=300, width=400)
        image_file(folder / "train" / wnid / "b.JPEG", seed=2, height=300, width=400)
        image_file(folder / "train" / wnid / "c.JPEG", seed=3, height=300, width=400)
    mask = folder / "validation-segmentation/n01/a.png"
    image_file(mask, seed=4, height=300, width=400)
    data = load("imagenet-s", root=tmp_path)
    assert data.classes == ["n01", "n02"]
    assert data.test.ids == ["validation/n01/a.JPEG", "validation/n02/a.JPEG"]
    assert data.test.batch([0]).shape == (1, 3, 224, 224)
    assert len(data.train) + len(data.validation) == 4

    (folder / "wnids.txt").write_text("n00\nn01\nn02\n")
    assert load("imagenet-s", root=tmp_path).test.labels.tolist() == [1, 2]

    from PIL import Image

    Image.new("RGB", (400, 300), (IGNORED % 256, IGNORED // 256, 0)).save(mask)
    assert np.unique(segmentation_mask(tmp_path, "validation/n01/a.JPEG")) == [IGNORED]
    assert segmentation_mask(tmp_path, "validation/n01/a.JPEG").shape == (300, 400)
    with pytest.raises(TestbedError, match=r"n02/a\.png is missing"):
        segmentation_mask(tmp_path, "validation/n02/a.JPEG")
    with pytest.raises(UsageError, match="has no mask"):
        segmentation_mask(tmp_path, "train/n02/b.JPEG")


def test_imagenet_s_missing(tmp_path):
    with pytest.raises(TestbedError, match="cannot be downloaded freely"):
        load("imagenet-s", root=tmp_path)


def test_the_real_cifar10_jpegs(cifar_jpegs):
    data = load(f"imagefolder:{cifar_jpegs / 'test'}", preprocess="cifar10")
    theirs = datasets.ImageFolder(cifar_jpegs / "test")
    assert len(data.test) == 10_000
    assert data.test.ids[0] == "airplane/0000.jpg"
    assert data.test.labels.tolist() == theirs.targets
    assert data.image == 32
    np.testing.assert_array_equal(data.test.pixels(4321), np.asarray(theirs[4321][0]))
