"""Files of weights that claim more than they hold, or hold no plain numbers: each refused by name, in no memory."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from testbed.core.errors import TestbedError, UsageError
from testbed.core.process import resources
from testbed.models.importers import read_checkpoint

NAME = "block.0.weight"
PLAIN = torch.arange(6.0).reshape(2, 3)


def _saved(folder: Path, tensor: Any, **how: Any) -> Path:
    torch.save({"head.weight": PLAIN, NAME: tensor}, folder / "odd.pth", **how)
    return folder / "odd.pth"


def _with_pickle(folder: Path, content: bytes) -> Path:
    """A file of torch.save whose pickle is another one."""
    plain = _saved(folder, PLAIN)
    odd = folder / "other.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(odd, "w") as archive:
        for entry in source.namelist():
            archive.writestr(entry, content if entry.endswith("data.pkl") else source.read(entry))
    return odd


@pytest.mark.filterwarnings("ignore")  # of torch: some kinds are deprecated, some are in beta
@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (lambda: torch.zeros(1).expand(2**33), r"8,589,934,592 numbers of 1 stored\); save tensor.contiguous"),
        (lambda: torch.zeros(1).expand(2**20, 2**20), "repeat what is stored"),
        (lambda: PLAIN.to_sparse(), "to_dense"),
        (lambda: PLAIN.to_sparse_csr(), "to_dense"),
        (lambda: torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (2**20, 2**20)), "to_dense"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested|truncated"),
        (lambda: torch.empty(2, 3, device="meta"), "no values"),
        (lambda: PLAIN.to(torch.complex64), "must be float32, float16 or bfloat16"),
        (lambda: torch.quantize_per_tensor(PLAIN, 0.1, 0, torch.qint8), "before quantisation"),
        (lambda: torch.quantize_per_channel(PLAIN, torch.ones(2), torch.zeros(2), 0, torch.qint8), "before quantis"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_odd_tensors_are_named(tmp_path: Path, tensor: Callable[[], Tensor], told: str, zipped: bool) -> None:
    try:
        file = _saved(tmp_path, tensor(), _use_new_zipfile_serialization=zipped)
    except (RuntimeError, AttributeError, NotImplementedError):
        pytest.skip("torch cannot write this kind in this format")
    with pytest.raises(TestbedError, match=told) as caught:
        read_checkpoint(file)
    assert NAME in str(caught.value) or "truncated" in str(caught.value)  # a nested one, in torch's older format


@pytest.mark.parametrize(
    "tensor",
    [PLAIN.T, PLAIN[:, 1:], torch.ones(1).expand(4, 5), PLAIN.half(), PLAIN.bfloat16(), torch.nn.Parameter(PLAIN)],
)
def test_plain_ones_are_read_whatever_their_strides(tmp_path: Path, tensor: Tensor) -> None:
    found = read_checkpoint(_saved(tmp_path, tensor))
    np.testing.assert_array_equal(found[NAME].numpy(), tensor.detach().float().numpy())


def test_an_archive_that_grows_in_memory_is_refused(tmp_path: Path) -> None:
    plain, bomb = _saved(tmp_path, PLAIN), tmp_path / "bomb.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.namelist():
            archive.writestr(entry, bytes(1 << 27) if entry.endswith("data/0") else source.read(entry))
    with pytest.raises(TestbedError, match=r"unpacks to 128.0 MiB, as no weights do"):
        read_checkpoint(bomb)


def test_a_file_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.pth"
    with file.open("wb") as sparse:
        sparse.write(b"\x80\x02")
        sparse.truncate(2 * psutil.virtual_memory().total)
    with pytest.raises(UsageError, match=r"reading .*huge.pth needs .* of memory, of which"):
        read_checkpoint(file)


def test_nor_are_weights_that_do_not_fit_as_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _saved(tmp_path, torch.zeros(1000, 100, dtype=torch.float16))
    monkeypatch.setattr(resources, "available_bytes", lambda: 300_000)  # the file has 200,000, as float32 400,000
    with pytest.raises(UsageError, match=r"as float32 needs 390\.6 KiB of memory"):
        read_checkpoint(file)


def test_dicts_without_end_are_refused(tmp_path: Path) -> None:
    shared: dict[str, Any] = {NAME: PLAIN}
    for _ in range(40):
        shared = {"a": shared, "b": shared}  # 2^40 paths, 40 dicts
    deep: dict[str, Any] = {NAME: PLAIN}
    for _ in range(100):
        deep = {"a": deep}
    for content in (shared, deep):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(TestbedError, match="nests its entries too deep or too often"):
            read_checkpoint(tmp_path / "odd.pth")


_ZEROS = b"cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x02\x85R."  # bytearray(2 ** 33)
_VOID = b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x0b\0\0\0V2147483000\x85R\x85R."


@pytest.mark.parametrize(("content", "told"), [(_ZEROS, "raw bytes"), (_VOID, "truncated or not a PyTorch file")])
def test_calls_that_ask_for_memory_are_not_made(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(TestbedError, match=told):
        read_checkpoint(_with_pickle(tmp_path, b"\x80\x02" + content))
    legacy = tmp_path / "legacy.pth"
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    legacy.write_bytes(b"".join(head) + b"\x80\x02" + content + pickle.dumps([], 2))
    with pytest.raises(TestbedError, match=told):
        read_checkpoint(legacy)


def test_what_scripts_store_beside_tensors_is_still_read(tmp_path: Path) -> None:
    file = tmp_path / "run.pth"
    facts = {"accuracy": np.float64(0.5), "best": np.float32(1), "epoch": np.int64(3), "done": np.bool_(True)}
    torch.save({"model": {NAME: PLAIN}, **facts}, file)
    np.testing.assert_array_equal(read_checkpoint(file)[NAME].numpy(), PLAIN.numpy())
