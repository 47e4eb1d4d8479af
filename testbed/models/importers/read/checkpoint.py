"""A checkpoint file -> its named tensors. Nothing in it is ever executed."""

from __future__ import annotations

import argparse
import io
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any
from zipfile import is_zipfile

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import TensorDataset

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.file_kinds import is_safetensors
from testbed.core.folder.files import is_utf8
from testbed.models.importers.read.files import WeightsFile, refuse_other_kinds, weights_file
from testbed.models.importers.read.limits import check_files, check_nesting, check_plain, plain_dtype, refuse_raw_bytes
from testbed.models.keys import listed

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # DataParallel, torch.compile, training frameworks
_INSIDE = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # around parts of a model
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
# What scripts store besides tensors: arguments, paths, accuracies, pairs of arrays. Rebuilding these runs no code of the
# file.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    PosixPath,
    (PosixPath, "pathlib._local.PosixPath"),
    (PosixPath, "pathlib.PosixPath"),
    TensorDataset,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (plain_dtype, "numpy.dtype"),
    *{type(np.dtype(t)) for t in ("float64", "float32", "float16", "int64", "int32", "bool")},
]

_AVERAGE, _SEVERAL = re.compile("ema|shadow|average|swa"), 4


@dataclass(frozen=True)
class WeightSet:
    """One set of tensors under the names that the model's own state dict has, as stored (any dtype).

    ``name`` is its place in the file ("model_ema", "model.": entries and the names' common start), empty where the
    file is the state dict itself; ``left_out`` the tensors that lie elsewhere in the file, under their full names.
    """

    name: str
    tensors: dict[str, Tensor]
    left_out: dict[str, Tensor]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or PyTorch file: name -> float32 tensor on the CPU.

    Wrappers ({"model_state_dict": ...}), prefixes ("module.") and empty tensors go; half precision is widened.
    Raises UsageError when there is no such file, TestbedError when it is truncated, holds no state dict or several, or
    would run code when unpickled (it is not).
    """
    chosen = weight_set(path, loaded(weights_file(path)), None, ())
    return as_float32(path, _without_prefix(chosen.tensors))


def loaded(file: WeightsFile) -> Any:
    """Everything in the file, or the tensors of all its parts. Raises TestbedError where it is damaged, UsageError where
    it does not fit in memory."""
    check_files(file.shards)
    if len(file.shards) == 1:
        return _read(file.shards[0])
    parts: dict[str, Any] = {}
    for shard in file.shards:
        parts |= _read(shard)
    return parts


def weight_set(path: Path, content: Any, asked: str | None, anchors: Iterable[str]) -> WeightSet:
    """The one set of weights in a file's content, or the one called ``asked``.

    Training scripts wrap it in dicts with epochs, optimisers and the like, and its names may have a common start: what
    stands before one of ``anchors``, names of parameters that a model has once. Raises UsageError that names the sets
    where there are several (an average of the weights beside them) and none, or no such one, is asked for; TestbedError
    where there is none.
    """
    anchors = list(anchors)
    entries = [(where, _unwrapped(tensors)) for where, tensors in _entries(path, content)]
    sets = [part for entry in entries for part in _by_prefix(*entry, anchors)]
    sets = [part for part in sets if not part.tensors.keys().isdisjoint(anchors)] or sets
    names = [part.name for part in sets]
    if asked is None and len(sets) == 1:
        if (only := sets[0]).name and (where := _unnamed_average(content, only.tensors)):
            raise UsageError(
                f"{path} holds an average of the weights, too, without names ({where}, as torch_ema keeps it); state"
                f" --set weights={only.name}, or save the model with the average in it (ema.copy_to(parameters))"
            )
        return sets[0]
    if asked is None:
        raise UsageError(
            f"{path} holds {len(sets)} sets of weights ({', '.join(names)}); state which:"
            f" {' or '.join(f'--set weights={name}' for name in names[:4])}"
        )
    fits = [part for part in sets if asked == part.name] or [part for part in sets if asked in part.name.split(".")]
    if not fits and asked == "ema":
        fits = [part for part in sets if "ema" in re.split(r"[._]", part.name.lower())]
    if len(fits) != 1:
        held = f"it holds {', '.join(names)}" if any(names) else "its only weights have no name of their own"
        raise UsageError(f"{path} has no set of weights {asked!r}; {held}")
    return fits[0]


def as_float32(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Widened exactly; empty ones go. Raises TestbedError for tensors that hold no plain weights, and for NaN; UsageError
    for more than fit in memory."""
    check_plain(path, tensors)
    floats = {name: t.detach().float().contiguous() for name, t in tensors.items() if t.numel()}
    if broken := [name for name, t in floats.items() if not torch.isfinite(t).all()]:
        raise TestbedError(f"{path}: not finite (NaN or infinity), from a training that diverged?: {listed(broken)}")
    return floats


def load_tensors_only(path: Path, *, mapped: bool = False) -> Any:
    """``torch.load`` on the CPU, of tensors and plain containers only; ``mapped``: from disk as they are used.

    Raises TestbedError for a truncated file and for one that holds anything else (which is not executed).
    """
    refuse_raw_bytes(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            if path.suffix == ".safetensors":  # torch.load would go by the name
                return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zipfile(path))
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            if named[1].startswith("numpy."):
                raise TestbedError(
                    f"{path} holds NumPy arrays, not tensors ({named[1]}); convert them where you trust the file:"
                    " torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, file)"
                ) from error
            raise TestbedError(
                f"{path} would run code when unpickled ({named[1]}) and was not; "
                "save the tensors alone, as in torch.save(model.state_dict(), file)"
            ) from error
        raise TestbedError(f"{path} is truncated or not a PyTorch file") from error
    except Exception as error:  # whatever the unpickler meets in the bytes: MemoryError, RecursionError, ...
        raise TestbedError(f"{path} is truncated or not a PyTorch file") from error


def _read(path: Path) -> Any:
    if not is_safetensors(path):
        refuse_other_kinds(path)
        if path.suffix != ".safetensors" or is_zipfile(path):
            return load_tensors_only(path)
    try:
        if not is_utf8(path):  # which the library's own open needs
            return safetensors.torch.load(path.read_bytes())
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise TestbedError(f"{path} is truncated or not a safetensors file ({error})") from error


def _entries(path: Path, content: Any, where: str = "") -> list[tuple[str, dict[str, Tensor]]]:
    """(place in the file, state dict) of each dict of tensors; one in another is named by both keys."""
    if not where:
        check_nesting(path, content)
    if not isinstance(content, Mapping):
        raise TestbedError(f"{path} holds {type(content).__name__}, not a state dict; save model.state_dict()")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return [(where, {str(key): value for key, value in content.items()})]
    entries = [
        entry
        for key, value in content.items()
        if _holds_weights(value)
        for entry in _entries(path, value, f"{where}.{key}".lstrip("."))
    ]
    if not entries:
        raise TestbedError(f"{path} holds no state dict; its entries: {listed(map(str, content)) or 'none at all'}")
    return entries


def _unnamed_average(content: Any, tensors: Mapping[str, Tensor], where: str = "") -> str:
    """The place of a list of tensors that is called an average and has the shapes of parameters; "" for none."""
    if isinstance(content, Mapping):
        inner = (_unnamed_average(value, tensors, f"{where}.{key}".lstrip(".")) for key, value in content.items())
        return next(filter(None, inner), "")
    if not isinstance(content, (list, tuple)) or not _AVERAGE.search(where.lower()):
        return ""
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    listed = [tuple(item.shape) if isinstance(item, Tensor) else None for item in content]
    return where if len(listed) >= _SEVERAL and shapes.issuperset(listed) else ""


def _holds_weights(value: Any) -> bool:
    """Is a dict of tensors in it, at any depth, whose names are a module's? (An optimiser's are "exp_avg", "step".)"""
    if not isinstance(value, Mapping) or not value:
        return False
    if all(isinstance(item, Tensor) for item in value.values()):
        return any("." in str(key) for key in value)
    return any(_holds_weights(item) for item in value.values())


def _by_prefix(where: str, tensors: dict[str, Tensor], anchors: list[str]) -> list[WeightSet]:
    """The sets of one dict: one for each start of names that an anchor has."""
    starts: dict[str, None] = {}
    for name in tensors:
        before = [name.removesuffix(a) for a in anchors if name == a or name.endswith(f".{a}")]
        if before:
            starts[min(before, key=len)] = None
    if not starts:
        return [WeightSet(where, _without_prefix(tensors), {})]
    sets = []
    for start in starts:
        longer = tuple(other for other in starts if other != start and other.startswith(start))
        own = [name for name in tensors if name.startswith(start) and not name.startswith(longer)]
        inside = {name.removeprefix(start): tensors[name] for name in own}
        left_out = {name: t for name, t in tensors.items() if name not in set(own)}
        set_name = ".".join(part for part in (where, start.removesuffix(".") or "plain") if part)
        sets.append(WeightSet(set_name if len(starts) > 1 else where, inside, left_out))
    return sets


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A name without what torch.compile, FSDP and activation checkpointing put into the names of the parts they
    wrap."""
    return {_INSIDE.sub("", name): tensor for name, tensor in tensors.items()}


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _without_prefix({name.removeprefix(prefix): t for name, t in tensors.items()})
    return tensors
