"""How many bytes of tensors and of NumPy arrays are alive, and what a backward pass keeps: counted, not timed."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def held_bytes() -> Iterator[Callable[[], int]]:
    """A function that gives the bytes alive now: all tensors, and the arrays made since."""
    tracemalloc.start()
    try:
        yield lambda: _tensors() + _arrays()
    finally:
        tracemalloc.stop()


def _tensors() -> int:
    storages = {}
    for value in gc.get_objects():
        if type(value) in (torch.Tensor, torch.nn.Parameter):  # not those without memory that exports work with
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _arrays() -> int:
    traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)])
    return sum(trace.size for trace in traces.traces)


class GraphMemory:
    """Bytes that graphs of autograd keep for a backward pass: now, and the most at any time."""

    def __init__(self) -> None:
        self.most = 0
        self._kept: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(self, tensor: torch.Tensor) -> _Saved:
        saved = _Saved(tensor)
        self._kept.add(saved)
        storages = {kept.tensor.untyped_storage().data_ptr(): kept.tensor for kept in self._kept}
        total = sum(kept.untyped_storage().nbytes() for kept in storages.values())
        self.most = max(self.most, total)
        return saved


class _Saved:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach()  # else a graph that saves its own output would keep itself alive


@contextmanager
def graph_memory() -> Iterator[GraphMemory]:
    """Watch what is kept inside the block."""
    memory = GraphMemory()
    with torch.autograd.graph.saved_tensors_hooks(memory.pack, lambda saved: saved.tensor):
        yield memory
