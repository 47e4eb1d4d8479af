"""Weights: damaged files, odd tensors, headers that lie, archives that unpack to more than they are, pickles that act."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from malformed_inputs.case import Base, Case
from malformed_inputs.values import HOSTILE, as_json, damaged, random_edit

_TOUCHED = "pickle-was-executed"


def cases(base: Base, rng: np.random.Generator) -> Iterator[Case]:
    state = torch.load(base.weights[0], weights_only=True)
    while True:
        which = rng.random()
        if which < 0.3:
            source = base.weights[int(rng.integers(2))]
            name, content = damaged(source.read_bytes(), rng)
            yield Case("weights", f"{source.suffix} {name}", partial(_bytes, content, f"w{source.suffix}"))
        elif which < 0.5:
            name, content = _header(base.weights[1].read_bytes(), rng)
            yield Case("weights", f"header {name}", partial(_bytes, content, "w.safetensors"))
        else:
            name = list(STATES)[int(rng.integers(len(STATES)))]
            suffix = (".pth", ".pt", ".bin")[int(rng.integers(3))]
            yield Case("weights", name, partial(_state, STATES[name], state, int(rng.integers(2**31)), suffix))


def _command(file: str) -> list[str]:
    return ["import", file, "--run", "run", "--set", "heads=2"]


def _bytes(content: bytes, file: str, folder: Path) -> list[str]:
    (folder / file).write_bytes(content)
    return _command(file)


def _state(change: Callable[..., Any], state: dict[str, Any], seed: int, suffix: str, folder: Path) -> list[str]:
    changed = change(dict(state), np.random.default_rng(seed), folder)
    if changed is not None:
        torch.save(changed, folder / f"w{suffix}")
    return _command(f"w{suffix}")


def _header(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    if rng.random() < 0.2:
        lie = (0, 1, 2**31, 2**63, size + 1, size - 1)[int(rng.integers(6))]
        return f"of {lie} bytes", struct.pack("<Q", lie) + content[8:]
    name, tree = random_edit(json.loads(content[8 : 8 + size]), rng)
    header = as_json(tree).encode("utf-8", "surrogatepass")
    return name, struct.pack("<Q", len(header)) + header + content[8 + size :]


def _some(state: dict[str, Any], rng: np.random.Generator) -> str:
    return list(state)[int(rng.integers(len(state)))]


def _replaced(make: Callable[[Any, np.random.Generator], Any]) -> Callable[..., Any]:
    def change(state: dict[str, Any], rng: np.random.Generator, _: Path) -> dict[str, Any]:
        key = _some(state, rng)
        return state | {key: make(state[key], rng)}

    return change


def _renamed(state: dict[str, Any], rng: np.random.Generator, _: Path) -> dict[str, Any]:
    key = _some(state, rng)
    value = state.pop(key)
    return state | {(HOSTILE, "", "a" * 10_000, "../../x", f"module.{key}")[int(rng.integers(5))]: value}


def _nested(state: dict[str, Any], rng: np.random.Generator, _: Path) -> Any:
    tree: Any = state
    for _level in range(int(rng.integers(1, 200))):
        tree = {"state_dict": tree}
    return tree


class _Acts:
    """What it would do when unpickled: leave a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.folder / _TOUCHED}'",)


def _bomb(state: dict[str, Any], rng: np.random.Generator, folder: Path) -> None:
    """A .pth whose storages are gigabytes of zeros, deflated."""
    del rng
    sound = folder / "sound.pth"
    torch.save({key: state[key] for key in list(state)[:2]}, sound)
    with zipfile.ZipFile(sound) as source, zipfile.ZipFile(folder / "w.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in source.infolist():
            if "/data/" in entry.filename:
                with bomb.open(entry.filename, "w", force_zip64=True) as into:
                    for _ in range(256):
                        into.write(bytes(2**20))
            else:
                bomb.writestr(entry.filename, source.read(entry))
    for suffix in (".pt", ".bin"):
        (folder / f"w{suffix}").symlink_to("w.pth")
    sound.unlink()


STATES: dict[str, Callable[..., Any]] = {
    "expanded": _replaced(lambda _, rng: torch.zeros(1).expand(2 ** int(rng.integers(33, 41)))),
    "expanded matrix": _replaced(lambda t, rng: torch.zeros(1, 1).expand(2**20, 2 ** int(rng.integers(12, 20)))),
    "sparse": _replaced(lambda t, _: t.to_sparse()),
    "sparse, huge": _replaced(
        lambda _, rng: torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0), (2**40, 2**20))
    ),
    "meta": _replaced(lambda t, _: t.to("meta")),
    "complex": _replaced(lambda t, _: t.to(torch.complex64)),
    "integers": _replaced(lambda t, _: t.to(torch.int64)),
    "bool": _replaced(lambda t, _: t.to(torch.bool)),
    "half": _replaced(lambda t, _: t.half()),
    "float8": _replaced(lambda t, _: t.to(torch.float8_e4m3fn)),
    "quantised": _replaced(lambda t, _: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)),
    "nan": _replaced(lambda t, _: torch.full_like(t, float("nan"))),
    "infinite": _replaced(lambda t, _: torch.full_like(t, float("inf"))),
    "empty": _replaced(lambda t, _: torch.zeros(0)),
    "scalar": _replaced(lambda t, _: torch.zeros(())),
    "many axes": _replaced(lambda t, _: torch.zeros([1] * 60)),
    "transposed": _replaced(lambda t, _: t.T if t.ndim == 2 else t.reshape(-1, 1)),
    "not a tensor": _replaced(lambda _, rng: (None, "x", 10**30, [1], {}, HOSTILE)[int(rng.integers(6))]),
    "missing": lambda state, rng, _: {k: v for k, v in state.items() if k != _some(state, rng)},
    "renamed": _renamed,
    "extra": lambda state, rng, _: state | {HOSTILE: torch.zeros(3)},
    "nested": _nested,
    "a list": lambda state, rng, _: list(state.values()),
    "a tensor": lambda state, rng, _: next(iter(state.values())),
    "a number": lambda state, rng, _: 3,
    "nothing": lambda state, rng, _: {},
    "integer keys": lambda state, rng, _: dict(enumerate(state.values())),
    "a pickle that acts": lambda state, rng, folder: state | {"x": _Acts(folder)},
    "a module": lambda state, rng, _: torch.nn.Linear(2, 2),
    "a bomb": _bomb,
}
