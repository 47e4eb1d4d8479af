"""Files of the original attention-subnetwork workflow, so that its users can move over in the middle.

| file | holds | here |
|---|---|---|
| ``vit_*_cifar10.pth`` | the model's weights, older vit-pytorch names | ``import_weights``, ``save_vit_pytorch`` |
| ``golden_*.pt`` | logits, (n, K) float32 | ``read_golden``, ``write_golden`` |
| ``*_attn_dataset.pt`` | first attention's {"inputs", "outputs"}, each (n, N, D) float32 | ``..._attention_dataset`` |
| ``*_part_att.pth`` | to_qkv.weight, to_out.0.weight, to_out.0.bias | ``..._attention_weights`` |
| ``*_cnf_corr_out*.pt`` | [one list per tier of correct images, incorrect images] | ``..._tier_indices`` |

That is the one form written, on the CPU. Read are also the natural variants of it: a tensor, or lists or dicts of
tensors. Readers raise UsageError for a missing file, TestbedError for one that is truncated, holds something else, or
would run code when unpickled (it does not).
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import atomic_path
from testbed.models.config import ViTConfig
from testbed.models.importers.read.checkpoint import load_tensors_only, read_checkpoint
from testbed.models.keys import misfits
from testbed.models.subnetwork import Subnetwork, SubnetworkPlace, subnetwork
from testbed.models.vit import Attention, ViT

_OUTPUT = re.compile(r"out|^y|target|label", re.IGNORECASE)
_ATTENTION_KEYS = {"qkv.weight": "to_qkv.weight", "proj.weight": "to_out.0.weight", "proj.bias": "to_out.0.bias"}


@dataclass(frozen=True)
class TierIndices:
    """Positions of images in dataset order: the correctly classified ones by confidence tier, and the others.

    Raises TestbedError when a position is negative or is listed twice.
    """

    correct: tuple[tuple[int, ...], ...]
    incorrect: tuple[int, ...]

    def __post_init__(self) -> None:
        counts = Counter([*(i for tier in self.correct for i in tier), *self.incorrect])
        if min(counts, default=0) < 0:
            raise TestbedError(f"an image position is negative: {min(counts)}")
        if twice := sorted(position for position, count in counts.items() if count > 1):
            raise TestbedError(f"images are listed more than once: {', '.join(map(str, twice[:5]))}")


def read_golden(path: Path) -> NDArray[np.float32]:
    """(n, K) logits in dataset order. Also read: batches or single rows in a list, or the only tensor of a dict."""
    value = _only(path, _load(path))
    rows = [value] if isinstance(value, Tensor) else _tensors(path, value)
    logits = _stacked(path, rows, dimensions=2)
    return logits.contiguous().numpy()


def write_golden(path: Path, logits: NDArray[np.float32]) -> None:
    _save(path, _tensor(logits))


def read_attention_dataset(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Inputs and outputs of the first attention, each (n, N, D), mapped from the file rather than loaded.

    Also read: a pair or a TensorDataset of both, a list of (input, output) pairs, and dicts with other names.
    """
    inputs, outputs = (_stacked(path, part, dimensions=3) for part in _inputs_and_outputs(path, _load(path)))
    if inputs.shape != outputs.shape:
        raise TestbedError(f"{path}: inputs {tuple(inputs.shape)} and outputs {tuple(outputs.shape)} differ in shape")
    return inputs.numpy(), outputs.numpy()


def write_attention_dataset(path: Path, inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> None:
    """The arrays may be memory-mapped and larger than memory."""
    if inputs.shape != outputs.shape or inputs.ndim != 3:
        raise UsageError(f"inputs {inputs.shape} and outputs {outputs.shape} must both be (images, tokens, width)")
    _save(path, {"inputs": _tensor(inputs), "outputs": _tensor(outputs)})


def read_attention_weights(path: Path, heads: int | None = None) -> Subnetwork:
    """The first attention as a model of its own. The file does not tell ``heads``; by default they are 64 wide."""
    tensors = {name.removeprefix("fn."): tensor for name, tensor in read_checkpoint(path).items()}
    qkv = tensors.get("to_qkv.weight")
    if qkv is None or qkv.dim() != 2:
        raise TestbedError(f"{path} is no attention subnetwork: it has no matrix to_qkv.weight")
    inner, width = qkv.shape[0] // 3, qkv.shape[1]
    heads = inner // 64 if heads is None else heads
    if heads < 1 or inner % heads:
        raise UsageError(f"{path}: q is {inner} wide, which {heads} heads cannot share; state heads=N (--heads N)")
    wanted = {"to_qkv.weight": (3 * inner, width), "to_out.0.weight": (width, inner), "to_out.0.bias": (width,)}
    if problem := misfits(wanted, {name: tuple(t.shape) for name, t in tensors.items()}):
        raise TestbedError(f"{path} does not fit together as an attention subnetwork of width {width}: {problem}")
    attention = Attention(_attention_only(width, heads, inner // heads), 0)
    attention.load_state_dict({ours: tensors[theirs] for ours, theirs in _ATTENTION_KEYS.items()})
    return Subnetwork(attention, SubnetworkPlace("attention", 0))


def write_attention_weights(path: Path, model: ViT | Subnetwork) -> None:
    """The first attention of a model, or an attention subnetwork. Raises UsageError if the file cannot hold it."""
    part = subnetwork(model, "attention") if isinstance(model, ViT) else model
    prefix = f"block.{part.part.block}.attn."
    tensors = {name.removeprefix(prefix): p.detach().cpu().clone() for name, p in part.named_parameters()}
    if tensors.keys() != _ATTENTION_KEYS.keys():
        unlike = ", ".join(sorted(tensors.keys() - _ATTENTION_KEYS.keys()))
        raise UsageError(f"a part_att file holds qkv.weight, proj.weight and proj.bias only; it cannot hold {unlike}")
    _save(path, {theirs: tensors[ours] for ours, theirs in _ATTENTION_KEYS.items()})


def read_tier_indices(path: Path) -> TierIndices:
    """Also read: a dict of the two, tensors instead of lists, and incorrect images that are split by tier as well."""
    value = _load(path)
    if isinstance(value, Mapping):
        wrong = [key for key in value if re.search(r"incorrect|wrong|err", str(key), re.IGNORECASE)]
        if len(value) != 2 or len(wrong) != 1:
            raise TestbedError(f"{path}: of its entries ({_entries(value)}) none or several are the incorrect images")
        value = [next(value[key] for key in value if key != wrong[0]), value[wrong[0]]]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise TestbedError(f"{path} must hold two lists: the tiers of correct images, and the incorrect images")
    correct, incorrect = value
    tiers = correct if _nested(correct) else [correct]
    try:
        return TierIndices(
            tuple(tuple(_integers(path, tier)) for tier in tiers),
            tuple(sorted(_integers(path, incorrect))),
        )
    except TestbedError as error:
        raise TestbedError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def write_tier_indices(path: Path, indices: TierIndices) -> None:
    _save(path, [[list(tier) for tier in indices.correct], list(indices.incorrect)])


def _attention_only(width: int, heads: int, head_width: int) -> ViTConfig:
    """A config of which only the attention of its single block is used."""
    return ViTConfig(
        image=1, patch=1, channels=1, width=width, heads=(heads,), mlp=(0,), classes=1, head_width=head_width
    )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return load_tensors_only(path, mapped=True)


def _save(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(value, file)


def _tensor(array: NDArray) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a read-only memory map is only read
        return torch.from_numpy(np.asarray(array, np.float32))


def _only(path: Path, value: Any) -> Any:
    """The single entry of a dict; anything else as it is."""
    if not isinstance(value, Mapping):
        return value
    if len(value) != 1:
        raise TestbedError(f"{path} has several entries ({_entries(value)}); one array is wanted")
    return next(iter(value.values()))


def _inputs_and_outputs(path: Path, value: Any) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    if isinstance(value, TensorDataset):
        value = list(value.tensors)
    if isinstance(value, Mapping):
        outputs = [key for key in value if _OUTPUT.search(str(key))]
        if len(value) != 2 or len(outputs) != 1:
            raise TestbedError(f"{path}: of its entries ({_entries(value)}) one must be the inputs, one the outputs")
        value = [next(value[key] for key in value if key != outputs[0]), value[outputs[0]]]
    if not isinstance(value, list | tuple) or not value:
        raise TestbedError(f"{path} holds {type(value).__name__}, not the inputs and outputs of an attention")
    if len(value) == 2 and not all(isinstance(part, tuple) and len(part) == 2 for part in value):
        return _tensors(path, value[0]), _tensors(path, value[1])
    pairs = [_inputs_and_outputs(path, pair) for pair in value]
    return [x for xs, _ in pairs for x in xs], [y for _, ys in pairs for y in ys]


def _tensors(path: Path, value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple) and value and all(isinstance(item, Tensor) for item in value):
        return list(value)
    raise TestbedError(f"{path} holds {type(value).__name__}, not arrays")


def _stacked(path: Path, parts: Sequence[Tensor], dimensions: int) -> Tensor:
    """One float32 tensor of ``dimensions``, from parts that are batches of it or single items."""
    batches = [part[None] if part.dim() == dimensions - 1 else part for part in parts]
    shapes = {tuple(batch.shape[1:]) for batch in batches}
    if len(shapes) != 1 or any(b.dim() != dimensions or not b.is_floating_point() for b in batches):
        kinds = ", ".join(sorted({f"{tuple(p.shape)} {p.dtype}" for p in parts})[:4])
        raise TestbedError(f"{path} holds {kinds}, which make no float array of {dimensions} dimensions")
    return (batches[0] if len(batches) == 1 else torch.cat(batches)).float()


def _nested(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(v, list | tuple) or _is_vector(v) for v in value)


def _is_vector(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _integers(path: Path, value: Any) -> Iterator[int]:
    """The whole numbers in nested lists and tensors, in order."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple):
        for item in value:
            yield from _integers(path, item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
    else:
        raise TestbedError(f"{path}: {value!r} is not the position of an image")


def _entries(value: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(value)[:5])) or "none"
