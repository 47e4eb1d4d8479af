"""Small files in the formats that data sets really come in, written here."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MNIST_PARTS = {"train": 60, "t10k": 20}


def write_image(path: Path, seed: int, height: int = 12, width: int = 12, mode: str = "RGB") -> np.ndarray:
    """A random image; returns its pixels (exactly what a lossless file gives back)."""
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def image_file():
    return write_image


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX format: magic (0, 0, type 8 = uint8, dimensions), big-endian sizes, data."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist_files(tmp_path):
    """Writes ROOT/<folder>/raw; returns (root, {part: (images, labels)}). Labels run through 0..9."""

    def write(folder: str = "MNIST", compressed: bool = False, labels_of=lambda n: np.arange(n) % 10):
        written, raw = {}, tmp_path / folder / "raw"
        raw.mkdir(parents=True)
        for part, count in MNIST_PARTS.items():
            images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
            labels = labels_of(count)
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                content = idx_bytes(array)
                name = f"{part}-{kind}-ubyte"
                (raw / (name + ".gz" * compressed)).write_bytes(gzip.compress(content) if compressed else content)
            written[part] = images, labels
        return tmp_path, written

    return write


@pytest.fixture
def cifar_files(tmp_path, monkeypatch):
    """Writes ROOT/cifar-10-batches-py (or cifar-100-python) in the published format and tells torchvision the MD5 sums
    of these files in place of the published ones; the check itself still runs. Returns (root, {part: (images, labels)})
    """
    from testbed.data.torchvision_import import datasets

    def write(name: str = "CIFAR10", per_file: int = 20):
        source = getattr(datasets, name)
        key, classes = ("labels", 10) if name == "CIFAR10" else ("fine_labels", 100)
        folder = tmp_path / source.base_folder
        folder.mkdir()
        written = {}
        for part, files in (("train", source.train_list), ("test", source.test_list)):
            pixels, labels, sums = [], [], []
            for number, (file, _) in enumerate(files):
                rng = np.random.default_rng([number, len(part)])
                planes = rng.integers(0, 256, (per_file * classes // 10, 3, 32, 32), dtype=np.uint8)
                numbers = [i % classes for i in range(len(planes))]
                content = pickle.dumps({"data": planes.reshape(len(planes), 3072), key: numbers})
                (folder / file).write_bytes(content)
                sums.append([file, hashlib.md5(content).hexdigest()])
                pixels.append(planes.transpose(0, 2, 3, 1))
                labels += numbers
            written[part] = np.concatenate(pixels), np.array(labels)
            monkeypatch.setattr(source, f"{part}_list", sums)
        content = pickle.dumps({source.meta["key"]: [f"class {i}" for i in range(classes)]})
        (folder / source.meta["filename"]).write_bytes(content)
        monkeypatch.setattr(source, "meta", source.meta | {"md5": hashlib.md5(content).hexdigest()})
        return tmp_path, written

    return write


@pytest.fixture
def tiny_files(tmp_path):
    """Writes ROOT/tiny-imagenet-200 with three classes in the zip's layout; returns (root, folder)."""
    folder = tmp_path / "tiny-imagenet-200"
    wnids = ["n02", "n01", "n03"]  # the published wnids.txt is not sorted either
    for seed, wnid in enumerate(wnids):
        for i in range(10):
            mode = "L" if i == 0 else "RGB"  # the published set has grey images too
            write_image(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 100 * seed + i, 64, 64, mode)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("box\n")
    lines = []
    for i in range(6):
        write_image(folder / "val/images" / f"val_{i}.JPEG", 1000 + i, 64, 64)
        lines.append(f"val_{i}.JPEG\t{wnids[i % 3]}\t0\t32\t44\t62\n")
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn9\tunused\n")
    return tmp_path, folder


@pytest.fixture
def class_folder(tmp_path):
    """Writes ``count`` PNG files per class below ``tmp_path/<where>``; returns that folder."""

    def write(where: str, classes=("cat", "dog"), count: int = 4, size: int = 12) -> Path:
        for label, name in enumerate(classes):
            for i in range(count):
                write_image(tmp_path / where / name / f"{i:02d}.png", 1000 * label + i, size, size)
        return tmp_path / where

    return write


@pytest.fixture(scope="session")
def cifar_jpegs(cache_dir) -> Path:
    """The 10,000 real CIFAR-10 test images, unpacked once; the folder that holds test/."""
    shared = Path(os.environ.get("TESTBED_SHARED") or Path(__file__).parents[2].parent / "shared")
    archive = shared / "data/cifar10-jpeg.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there; TESTBED_SHARED names the folder that holds data/")
    folder = cache_dir / "cifar10-jpeg-test"
    if not folder.is_dir():
        unpacked = cache_dir / f"unpacking-{os.getpid()}"
        with tarfile.open(archive) as tar:
            test = [member for member in tar if member.name.startswith("cifar10-jpeg/test/")]
            tar.extractall(unpacked, test, filter="data")
        try:
            (unpacked / "cifar10-jpeg").rename(folder)
        except OSError:  # another test process was faster
            assert folder.is_dir()
    return folder
