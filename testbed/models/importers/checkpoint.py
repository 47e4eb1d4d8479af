"""A checkpoint file -> its named tensors. Nothing in it is ever executed."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import TensorDataset

from testbed.core.errors import TestbedError, UsageError
from testbed.models.keys import listed

_WRAPPERS = ("model_state_dict", "state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # DataParallel, torch.compile, training frameworks
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
# What scripts store besides tensors: arguments, accuracies, pairs of arrays. Rebuilding these runs no code of the file.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    TensorDataset,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(t)) for t in ("float64", "float32", "float16", "int64", "int32", "bool")},
]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or PyTorch file: name -> float32 tensor on the CPU.

    Wrappers ({"model_state_dict": ...}), prefixes ("module.") and empty tensors go; half precision is widened.
    Raises UsageError when there is no such file, TestbedError when it is truncated, holds no state dict, or would run
    code when unpickled (it is not).
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    loaded = _safetensors(path) if path.suffix == ".safetensors" else load_tensors_only(path)
    tensors = _without_prefix(_state_dict(path, loaded))
    wrong = [f"{name} ({t.dtype})" for name, t in tensors.items() if not t.is_floating_point() or t.itemsize > 4]
    if wrong:
        raise TestbedError(f"{path}: weights must be float32, float16 or bfloat16; these are not: {listed(wrong)}")
    return {name: t.detach().float().contiguous() for name, t in tensors.items() if t.numel()}


def load_tensors_only(path: Path, *, mapped: bool = False) -> Any:
    """``torch.load`` on the CPU, of tensors and plain containers only; ``mapped``: from disk as they are used.

    Raises TestbedError for a truncated file and for one that holds anything else (which is not executed).
    """
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zipfile(path))
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise TestbedError(
                f"{path} would run code when unpickled ({named[1]}) and was not; "
                "save the tensors alone, as in torch.save(model.state_dict(), file)"
            ) from error
        raise TestbedError(f"{path} is truncated or not a PyTorch file") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        raise TestbedError(f"{path} is truncated or not a PyTorch file") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise TestbedError(f"{path} is truncated or not a safetensors file ({error})") from error


def _state_dict(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The dict of tensors, which training scripts wrap in dicts with epochs, optimisers and the like."""
    if not isinstance(loaded, Mapping):
        raise TestbedError(f"{path} holds {type(loaded).__name__}, not a state dict; save model.state_dict()")
    inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
    if inner is not None:
        return _state_dict(path, inner)
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others or not loaded:
        raise TestbedError(f"{path} holds no state dict; its entries: {listed(map(str, loaded)) or 'none at all'}")
    return {str(key): value for key, value in loaded.items()}


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _without_prefix({name.removeprefix(prefix): t for name, t in tensors.items()})
    return tensors
