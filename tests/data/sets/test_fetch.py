"""Downloads, from a server of this test's own: whole or not at all, and only when asked for."""

import hashlib
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from testbed.core.errors import TestbedError
from testbed.data import load
from testbed.data.sets import tiny_imagenet
from testbed.data.torchvision_import import datasets


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address at which tmp_path is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def mnist_mirror(mnist_files, server, monkeypatch):
    """The four archives on the server, with their real MD5 sums."""
    root, _ = mnist_files("mirror", compressed=True)
    raw = root / "mirror/raw"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server}/mirror/raw/"])
    sums = [(name, hashlib.md5((raw / name).read_bytes()).hexdigest()) for name, _ in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    return raw


def test_mnist_is_fetched_when_asked_and_then_found(mnist_mirror, tmp_path, capsys):
    root = tmp_path / "data"
    assert len(load("mnist", root=root, download=True).test) == 20
    assert len(load("mnist", root=root).test) == 20
    assert [p.name for p in root.iterdir()] == ["MNIST"]
    assert capsys.readouterr().out == ""


def test_a_damaged_download_leaves_nothing(mnist_mirror, tmp_path):
    (mnist_mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not it")
    root = tmp_path / "data"
    with pytest.raises(TestbedError, match=r"download into .*MNIST failed .*check the network"):
        load("mnist", root=root, download=True)
    assert list(root.iterdir()) == []


def test_an_incomplete_folder_is_not_overwritten(mnist_mirror, tmp_path):
    kept = tmp_path / "data/MNIST/raw/train-images-idx3-ubyte"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(TestbedError, match="MNIST is there but incomplete: move it away"):
        load("mnist", root=tmp_path / "data", download=True)
    assert kept.read_text() == "mine"


def test_tiny_imagenet_zip(tiny_files, server, tmp_path, monkeypatch):
    _, folder = tiny_files
    archive = tmp_path / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))
    monkeypatch.setattr(tiny_imagenet, "URL", f"{server}/tiny.zip")
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    root = tmp_path / "data"
    assert len(load("tiny-imagenet", root=root, download=True).test) == 6
    assert [p.name for p in root.iterdir()] == ["tiny-imagenet-200"]


def test_no_write_permission(mnist_mirror, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TestbedError, match="choose another folder"):
        load("mnist", root=tmp_path / "file/data", download=True)
