"""MNIST, Fashion-MNIST and CIFAR from files in their published formats."""

import gzip
import os

import numpy as np
import pytest

from testbed.core.errors import TestbedError, UsageError
from testbed.data import load


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files(mnist_files, name, folder):
    root, written = mnist_files(folder)
    data = load(name, root=root)
    images, labels = written["t10k"]
    assert (len(data.train), len(data.validation), len(data.test)) == (54, 6, 20)
    assert (data.channels, data.image, len(data.classes)) == (1, 28, 10)
    assert data.test.ids[3] == f"{name}/test/0003"
    np.testing.assert_array_equal(data.test.labels, labels)
    np.testing.assert_array_equal(data.test.pixels(3), images[3])
    np.testing.assert_allclose(data.test.batch([3])[0, 0], (images[3] / 255 - data.mean[0]) / data.std[0], atol=1e-6)


def test_validation_is_cut_from_train_only(mnist_files):
    root, written = mnist_files()
    data = load("mnist", root=root)
    rows = [int(i.removeprefix("mnist/train/")) for i in (*data.train.ids, *data.validation.ids)]
    assert sorted(rows) == list(range(60))
    row = int(data.validation.ids[0].removeprefix("mnist/train/"))
    np.testing.assert_array_equal(data.validation.pixels(0), written["train"][0][row])


@pytest.mark.parametrize(("name", "theirs", "classes"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_cifar_files(cifar_files, name, theirs, classes):
    root, written = cifar_files(theirs)
    data = load(name, root=root)
    images, labels = written["test"]
    assert data.classes == [f"class {i}" for i in range(classes)]
    assert len(data.train) + len(data.validation) == len(written["train"][0])
    np.testing.assert_array_equal(data.test.labels, labels)
    np.testing.assert_array_equal(data.test.pixels(7), images[7])
    expected = (images[7].transpose(2, 0, 1) / 255 - np.array(data.mean)[:, None, None]) / np.array(data.std)[
        :, None, None
    ]
    np.testing.assert_allclose(data.test.batch([7])[0], expected, atol=1e-6)


def test_a_cifar_file_that_is_not_the_published_one_is_never_unpickled(cifar_files):
    root, _ = cifar_files()
    marker = root / "ran"
    evil = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    (root / "cifar-10-batches-py/test_batch").write_bytes(evil)
    with pytest.raises(TestbedError, match="cifar-10-batches-py are damaged"):
        load("cifar10", root=root)
    assert not marker.exists()


def test_truncated_idx_file(mnist_files):
    root, _ = mnist_files()
    file = root / "MNIST/raw/t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TestbedError, match="MNIST are damaged"):
        load("mnist", root=root)


def test_label_outside_the_classes(mnist_files):
    root, _ = mnist_files(labels_of=lambda n: np.where(np.arange(n) == 7, 200, np.arange(n) % 10))
    with pytest.raises(UsageError, match=r"label 200 of image 'mnist/train/0007' is outside 0\.\.9"):
        load("mnist", root=root)


def test_missing_files_say_how_to_get_them(tmp_path):
    with pytest.raises(TestbedError, match=r"train-images-idx3-ubyte \(and 3 more\) is missing; download it with"):
        load("mnist", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def system_files(mnist_files, monkeypatch):
    """Fashion-MNIST as Debian packages it: compressed IDX files in a system's data folder. Returns (folder, written)."""
    root, written = mnist_files("datasets", compressed=True)
    folder = root / "datasets/fashion-mnist"
    (root / "datasets/raw").rename(folder)
    monkeypatch.setenv("XDG_DATA_DIRS", f"relative{os.pathsep}{root / 'nothing'}{os.pathsep}{root}")
    monkeypatch.setenv("TESTBED_DATA", str(root / "empty"))
    return folder, written


def test_fashion_mnist_of_a_system_s_package(system_files):
    from testbed.data.torchvision_import import datasets

    _, written = system_files
    data = load("fashion-mnist")
    images, labels = written["t10k"]
    np.testing.assert_array_equal(data.test.labels, labels)
    np.testing.assert_array_equal(data.test.pixels(3), images[3])
    assert (len(data.train) + len(data.validation), data.test.ids[3]) == (60, "fashion-mnist/test/0003")
    assert data.classes == datasets.FashionMNIST.classes


def test_the_same_images_whether_a_package_or_torchvision_brought_them(system_files, monkeypatch):
    folder, _ = system_files
    packaged = load("fashion-mnist")
    raw = folder.parents[1] / "own/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for file in folder.iterdir():
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    monkeypatch.setenv("TESTBED_DATA", str(raw.parents[1]))
    folder.rename(folder.with_name("elsewhere"))
    own = load("fashion-mnist")
    assert [getattr(own, part).sha256() for part in ("train", "validation", "test")] == [
        getattr(packaged, part).sha256() for part in ("train", "validation", "test")
    ]


def test_a_named_data_folder_is_the_only_one_looked_into(system_files, tmp_path):
    with pytest.raises(TestbedError, match="is missing"):
        load("fashion-mnist", root=tmp_path / "named")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-20], "cut off or damaged"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1]), "where its header says"),
        (lambda content: gzip.compress(b"\0\0\x0d\3" + gzip.decompress(content)[4:]), "not an IDX file of unsigned"),
        (lambda content: gzip.compress(b"\0\0\x08\3\0"), "where its header says|damaged"),
        (lambda content: b"", "not an IDX file"),
        (lambda content: b"plain", "damaged"),
    ],
)
def test_damaged_files_of_a_system_s_package(system_files, damage, message):
    folder, _ = system_files
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(TestbedError, match=message) as refused:
        load("fashion-mnist")
    assert "install their package again" in str(refused.value)
