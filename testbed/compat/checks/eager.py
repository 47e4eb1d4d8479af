"""The library's own eager model as an oracle: the same value corrupted where PyTorch computes it.

Which of PyTorch's operations gives a site's tensor is found by its values alone: neither names nor graphs are looked at. In
the same place the element is corrupted, in memory, so that everything that takes it from there on takes the faulty value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from testbed.compat.exporters import logits_of
from testbed.core.fault import Masks
from testbed.semantics import corrupt

if TYPE_CHECKING:
    from torch import nn

_NEAR = 1e-4  # of a tensor's largest value: two computations of one tensor
_APART = 8.0  # times as far as the nearest value is the next, or an element is not known by its value
_MOST = 4  # operations of one tensor that are kept: it is copied and reshaped


@dataclass(frozen=True)
class Operation:
    """The number of an operation in a forward pass, and which of its outputs."""

    number: int
    output: int


@dataclass(frozen=True, eq=False)
class EagerModel:
    """The library's model on one image. image: (1, C, S, S)."""

    model: nn.Module
    image: NDArray[np.float32]
    _by_site: dict[str, list[Operation]] = field(default_factory=dict)

    def find(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Finds the operations that give these tensors. values: site -> one image's, in any order of elements."""
        self._run(nullcontext())  # what libraries compute once and keep is no part of the passes that follow
        watching = _Watching({site: np.sort(array, axis=None) for site, array in values.items()})
        self._run(watching)
        self._by_site.update(watching.operations)

    def operations(self, site: str) -> list[Operation]:
        """Those that give the site's tensor, the first one first; empty where none does."""
        return self._by_site.get(site, [])

    def logits(self) -> NDArray[np.float32]:
        """(K,) without a fault."""
        return self._run(nullcontext())

    def faulty_logits(self, site: str, value: np.float32, masks: Masks) -> Iterator[NDArray[np.float32]]:
        """(K,) per operation of the site, with the element that holds this value corrupted; none where no element is known
        by its value."""
        for operation in self.operations(site):
            corrupting = _Corrupting(operation, value, masks)
            logits = self._run(corrupting)
            if corrupting.done:
                yield logits

    def _run(self, mode: AbstractContextManager[Any]) -> NDArray[np.float32]:
        # attention as its formula: one operation of all hides scores and softmax
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), mode:
                return logits_of(self.model)(torch.from_numpy(self.image))[0].numpy()
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def with_parameter(
    model: nn.Module, image: NDArray[np.float32], values: NDArray[np.float32], index: int, masks: Masks
) -> NDArray[np.float32] | None:
    """(K,) logits while the parameter that holds ``values`` (flat) has one element corrupted; None where there is not one."""
    same = [p for p in model.parameters() if np.array_equal(p.detach().numpy().reshape(-1), values)]
    if len(same) != 1:
        return None
    held = same[0].detach().view(-1).numpy()  # shares the parameter's memory
    before = held[index]
    held[index] = corrupt(held[index : index + 1], *(np.array([mask], np.uint32) for mask in masks))[0]
    try:
        return EagerModel(model, image).logits()
    finally:
        held[index] = before


class _Numbered(TorchDispatchMode):
    """Numbers the operations of a pass, and hands on what each returns."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        self._number += 1
        several = returned if isinstance(returned, (tuple, list)) else (returned,)
        for output, tensor in enumerate(several):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float32:
                self.on_tensor(Operation(self._number, output), tensor)
        return returned

    def on_tensor(self, operation: Operation, tensor: Tensor) -> None:
        raise NotImplementedError


class _Watching(_Numbered):
    def __init__(self, wanted: Mapping[str, NDArray[np.float32]]) -> None:
        """Take what is looked for. wanted: site -> its values in rising order."""
        super().__init__()
        self.operations: dict[str, list[Operation]] = {}
        self._by_size: dict[int, list[str]] = {}
        self._wanted = wanted
        for site, values in wanted.items():
            self._by_size.setdefault(values.size, []).append(site)

    def on_tensor(self, operation: Operation, tensor: Tensor) -> None:
        sites = self._by_size.get(tensor.numel(), ())
        if not sites:
            return
        values = np.sort(tensor.detach().numpy(), axis=None)
        for site in sites:
            wanted = self._wanted[site]
            near = _NEAR * max(float(np.abs(wanted[[0, -1]]).max()), 1e-6)
            if len(kept := self.operations.setdefault(site, [])) < _MOST and np.allclose(values, wanted, 0, near):
                kept.append(operation)


class _Corrupting(_Numbered):
    def __init__(self, operation: Operation, value: np.float32, masks: Masks) -> None:
        super().__init__()
        self.done = False
        self._operation, self._value, self._masks = operation, value, masks

    def on_tensor(self, operation: Operation, tensor: Tensor) -> None:
        if operation != self._operation:
            return
        held = tensor.detach().numpy()  # shares the tensor's memory
        away = np.abs(held.reshape(-1) - self._value)
        nearest = int(away.argmin())
        others = np.delete(away, nearest)
        if others.size and others.min() <= _APART * max(float(away[nearest]), 1e-7 * abs(float(self._value))):
            return
        where = np.unravel_index(nearest, held.shape)
        masks = (np.array([mask], np.uint32) for mask in self._masks)
        held[where] = corrupt(held[where].reshape(1), *masks)[0]
        self.done = True
