"""The reference golden: torch float32 on the original model. Confidence tiers come from it, once.

Recorded per image, in data set order: the logits, and input and output of chosen modules (for an attention module: the
input after the block's LayerNorm, the output before the residual).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from testbed.core.errors import TestbedError, UsageError
from testbed.data.dataset import Split
from testbed.golden.arrays import array_writer

LOGITS = "golden/logits.npy"


def module_files(name: str) -> tuple[str, str]:
    """Files of a module's input and output: ``golden/block.0.attn.input.npy`` and ``....output.npy``."""
    return f"golden/{name}.input.npy", f"golden/{name}.output.npy"


def record_reference(
    model: nn.Module,
    split: Split,
    rows: Sequence[int],
    run: Path,
    *,
    modules: Sequence[str] = (),
    batch: int = 64,
    device: torch.device | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> None:
    """Streams logits (n, K) and each module's input and output (n, N, D) of the images ``rows`` to the run folder.

    Memory: the model and a few batches, whatever the number of images. ``modules`` are names of ``named_modules()``;
    ``advance`` is told how many images are done; ``device`` is the CPU unless given. Raises UsageError for an unknown
    module, TestbedError when the files will not fit on the disk.
    """
    target = device or torch.device("cpu")
    found = dict(model.named_modules())
    for name in modules:
        if not name or name not in found:
            raise UsageError(f"the model has no module {name!r}; attention modules: {_attention_modules(found)}")
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before, after = module_files(name)
            seen[before], seen[after] = inputs[0], output

        return hook

    with ExitStack() as stack:
        for name in modules:
            stack.callback(found[name].register_forward_hook(note(name)).remove)
        files = [LOGITS, *(file for name in modules for file in module_files(name))]
        writers = {file: stack.enter_context(array_writer(run / file, len(rows))) for file in files}
        stack.enter_context(torch.inference_mode())
        # Convolutions on a GPU would round their inputs to 10 bits of mantissa (TF32); matrix products do not by default.
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
        model.eval().to(target)
        for start in range(0, len(rows), batch):
            images = split.batch(list(rows[start : start + batch]))
            seen[LOGITS] = model(torch.from_numpy(images).to(target))
            if not start:
                _check_first_batch(seen, modules, len(rows), run)
            for file, writer in writers.items():
                writer.append(seen[file].cpu().numpy())
            advance(len(images))


def compute_device(name: str) -> torch.device:
    """cpu, cuda, cuda:N, or auto: cuda where there is one. Raises UsageError for others and for a GPU that is not there."""
    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; use cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: PyTorch sees no CUDA GPU here; use --device cpu")
    return device


def _check_first_batch(seen: Mapping[str, Tensor], modules: Sequence[str], rows: int, run: Path) -> None:
    unused = [name for name in modules if module_files(name)[0] not in seen]
    if unused:
        raise UsageError(f"module {unused[0]!r} takes no part in the forward pass; name one that does")
    needed = sum(rows * tensor[0].numel() * 4 for tensor in seen.values())
    free = shutil.disk_usage(run).free
    if needed > free:
        raise TestbedError(
            f"the golden of {rows} images needs {needed / 1e9:.1f} GB in {run}, where {free / 1e9:.1f} GB are free;"
            " record fewer images (--images N) or the logits alone (--logits-only)"
        )


def _attention_modules(found: Mapping[str, nn.Module]) -> str:
    names = [name for name in found if name.endswith(".attn")]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
