"""The reference golden: torch float32 on the original model. Confidence tiers come from it, once.

Recorded per image, in data set order: the logits, and input and output of chosen modules (for an attention module: the
input after the block's LayerNorm, the output before the residual).
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import atomic_path
from testbed.core.folder.provenance import processor
from testbed.core.process.resources import format_bytes
from testbed.data.dataset import Split
from testbed.golden.arrays import array_writer

LOGITS = "golden/logits.npy"
BATCH = 64  # images at a time, unless asked for otherwise

Outputs = dict[str, NDArray[np.float32]]
"""File -> its rows of one batch."""


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
    batch: int = BATCH,
    device: torch.device | None = None,
    workers: int | None = None,
    fix: str = "record fewer images (--images N) or the logits alone (--logits-only)",
    advance: Callable[[int], None] = lambda images: None,
) -> None:
    """Streams logits (n, K) and each module's input and output (n, N, D) of the images ``rows`` to the run folder.

    Memory: the model and a few batches, whatever the number of images. ``modules`` are names of ``named_modules()``;
    ``advance`` is told how many images are done; ``device`` is the CPU unless given. ``workers``: batches at the same
    time, each on one thread, so that their number changes no bit; None: one after the other, with as many threads as
    PyTorch has. ``fix``: what to do where the disk is too small. Raises UsageError for an unknown module, TestbedError
    when the files will not fit on the disk.
    """
    target = device or torch.device("cpu")
    named = dict(model.named_modules())
    for name in modules:
        if not name or name not in named:
            raise UsageError(f"the model has no module {name!r}; attention modules: {_attention_modules(named)}")
    noted = _Noted()
    with ExitStack() as stack:
        for name in modules:
            stack.callback(named[name].register_forward_hook(noted.hook(name)).remove)
        files = [LOGITS, *(file for name in modules for file in module_files(name))]
        writers = {file: stack.enter_context(array_writer(run / file, len(rows))) for file in files}
        # Convolutions on a GPU would round their inputs to 10 bits of mantissa (TF32); matrix products do not by default.
        stack.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
        model.eval().to(target)

        def outputs(start: int) -> Outputs:
            images = split.batch(list(rows[start : start + batch]))
            with torch.inference_mode():
                seen = noted.begin()
                seen[LOGITS] = model(torch.from_numpy(images).to(target))
                return {file: tensor.cpu().numpy() for file, tensor in seen.items()}

        batches = stack.enter_context(closing(_in_order(outputs, range(0, len(rows), batch), workers)))
        for number, arrays in enumerate(batches):
            if not number:
                _check_first_batch(arrays, modules, len(rows), run, fix)
            for file, writer in writers.items():
                writer.append(arrays[file])
            advance(len(arrays[LOGITS]))


def record_module(
    model: nn.Module,
    split: Split,
    positions: NDArray[np.int64],
    files: tuple[Path, Path],
    *,
    module: str,
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda images: None,
) -> None:
    """Writes a module's input and output (n, N, D) for the images at ``positions`` (n,) of the split, in that order.

    The same bits as `record_reference` of the whole split: the images are run in the very batches that they have there,
    up to the module and no further. ``advance`` is told of images that are done, of ``positions``. On the CPU. Raises
    TestbedError when the files cannot be written.
    """
    noted = _Noted()
    model.eval()
    layer = dict(model.named_modules())[module]
    with ExitStack() as stack:
        stack.callback(layer.register_forward_hook(noted.hook(module, last=True)).remove)
        stack.enter_context(torch.inference_mode())
        temporary = [stack.enter_context(atomic_path(file)) for file in files]
        arrays: list[np.memmap] = []
        for start in np.unique(positions // batch) * batch:
            images = split.batch(slice(int(start), int(start) + batch))
            seen = noted.begin()
            with suppress(_Reached):
                model(torch.from_numpy(images))
            both = [seen[file].numpy() for file in module_files(module)]
            if not arrays:
                arrays = [
                    open_memmap(path, "w+", np.float32, (len(positions), *part.shape[1:]), version=(2, 0))
                    for path, part in zip(temporary, both, strict=True)
                ]
            selected = np.flatnonzero(positions // batch * batch == start)
            for array, part in zip(arrays, both, strict=True):
                array[selected] = part[positions[selected] - start]
            advance(len(selected))
        for array in arrays:
            array.flush()


def arithmetic(device: torch.device, batch: int, threads: int) -> dict[str, JsonValue]:
    """What decides the last bits of a golden, beside model and images, as JSON. threads: of one batch."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "torch": torch.__version__,
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "batch": batch,
        "threads": None if gpu else threads,
    }


class _Reached(Exception):
    """The module of interest has run; what follows is not needed."""


class _Noted:
    """What hooks saw in this thread's forward pass: file -> tensor."""

    def __init__(self) -> None:
        self._here = threading.local()

    def begin(self) -> dict[str, Tensor]:
        self._here.seen = seen = dict[str, Tensor]()
        return seen

    def hook(self, name: str, last: bool = False) -> Any:
        before, after = module_files(name)

        def note(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._here.seen[before], self._here.seen[after] = inputs[0], output
            if last:
                raise _Reached

        return note


def _in_order(outputs: Callable[[int], Outputs], starts: Sequence[int], workers: int | None) -> Generator[Outputs]:
    """``outputs(start)`` of each start, in order; of two batches a worker at most are in memory."""
    if workers is None:
        yield from map(outputs, starts)
        return
    with _one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running: deque[Future[Outputs]] = deque()
        try:
            for start in starts:
                running.append(pool.submit(outputs, start))
                if len(running) >= 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_device(name: str) -> torch.device:
    """The device to compute on: cpu, cuda, cuda:N, or auto: cuda where there is one. Raises UsageError for others and
    for a GPU that is not there."""
    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; use cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: PyTorch sees no CUDA GPU here; use --device cpu")
    return device


def _check_first_batch(seen: Mapping[str, NDArray], modules: Sequence[str], rows: int, run: Path, fix: str) -> None:
    unused = [name for name in modules if module_files(name)[0] not in seen]
    if unused:
        raise UsageError(f"module {unused[0]!r} takes no part in the forward pass; name one that does")
    check_space(run, sum(rows * array[0].nbytes for array in seen.values()), rows, fix)


def check_space(run: Path, needed: int, images: int, fix: str) -> None:
    """Raises TestbedError where a golden of ``needed`` bytes will not fit on the disk."""
    free = shutil.disk_usage(run).free
    if needed > free:
        raise TestbedError(
            f"the golden of {images} images needs {format_bytes(needed)} in {run}, where {format_bytes(free)} are free; {fix}"
        )


def _attention_modules(named: Mapping[str, nn.Module]) -> str:
    names = [name for name in named if name.endswith(".attn")]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
