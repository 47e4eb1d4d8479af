"""A model as one safetensors file: its parameters under the weight sites' names, its architecture in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import is_utf8, write_bytes
from testbed.core.folder.parsing import json_value
from testbed.models.config import ViTConfig
from testbed.models.keys import misfits
from testbed.models.vit import ViT

_METADATA = "testbed"  # one key only: safetensors does not keep the order of several, and equal models give equal bytes
_FORMAT = 1


def save_model(path: Path, model: ViT) -> None:
    """Writes ``path`` whole or not at all. The same parameters and config give the same bytes on every device."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    description = json.dumps({"format": _FORMAT, "config": model.config.to_json()}, sort_keys=True)
    write_bytes(path, safetensors.torch.save(tensors, {_METADATA: description}))


def load_model(path: Path) -> ViT:
    """The model of a file that ``save_model`` wrote, on the CPU and in eval mode.

    Raises StaleArtefact when the file is missing, truncated, not such a file, or does not fit its own description.
    """
    config, tensors = _read(path)
    model = ViT(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if problem := misfits(wanted, stored):
        raise StaleArtefact(f"{path} does not fit its own description: {problem}; write the model again")
    wrong = [name for name, tensor in tensors.items() if tensor.dtype != torch.float32]
    if wrong:
        raise StaleArtefact(f"{path}: {wrong[0]} is {tensors[wrong[0]].dtype}, not float32; write the model again")
    model.load_state_dict(tensors)
    return model.eval()


def describes_model(path: Path) -> bool:
    """Did ``save_model`` write this file? False too for what cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return _METADATA in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _read(path: Path) -> tuple[ViTConfig, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            description = (file.metadata() or {}).get(_METADATA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except FileNotFoundError as error:
        raise StaleArtefact(f"{path} is missing; write the model again") from error
    except (SafetensorError, OSError) as error:
        if not is_utf8(path):
            raise UsageError(f"{path}: safetensors opens paths in UTF-8 only; rename the folder or file") from error
        why = f"truncated or not a safetensors file ({error})"
        raise StaleArtefact(f"{path} is {why}; write the model again") from error
    if description is None:
        raise StaleArtefact(f"{path} holds weights without their architecture; use `testbed import {path} --run DIR`")
    try:
        values = json_value(description)
        if values["format"] != _FORMAT:
            raise StaleArtefact(f"{path}: model format {values['format']} is not {_FORMAT}; write the model again")
        return ViTConfig.from_json(values["config"]), tensors
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise StaleArtefact(f"{path}: its description is damaged ({error}); write the model again") from error
