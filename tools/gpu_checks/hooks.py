"""Faults in a twin on the engine against the same faults by PyTorch's forward hooks, on the same device.

The model with the hooks is the testbed's own module, its matrix products written as the exported graph has them (a product,
then a sum), so that every bit must agree: what an element held, what was made of it, and the logits that follow. The module
as it is trained, whose linear layers may fuse the two, is compared within a tolerance.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from testbed.testing import FP32, InstrumentedModel, PortFeed, ReferenceModel, Runner, as_words, corrupt, masks_for

from .common import Section, Setting, require
from .subject import exported, subject

OUTPUT = "head"
CLOSE = 1e-3  # |d| <= CLOSE * (1 + |logit|): the module as it is trained, against the engine
Op = Literal["flip", "stuck0", "stuck1", "random"]
LEAST_CLOSE = 0.9  # share of rows: a fault in an exponent makes any rounding large
_OPS: tuple[Op, ...] = ("flip", "stuck0", "stuck1", "random")


def hooks(setting: Setting) -> Section:
    """Rows whose words differ; 0 is the only good number."""
    require(setting.backend)
    checked = subject(setting)
    batch = 8 if setting.quick else 32
    batches = 12 if setting.quick else 64
    made = InstrumentedModel.of_onnx(exported(setting, checked.name, checked.reference).read_bytes())
    images = checked.images(batch * batches)
    counts: dict[str, Any] = {
        **dict.fromkeys(("faults", "wrong_before", "wrong_after", "wrong_logits", "not_finite"), 0),
        "close_as_trained": 0,
        "same_class_as_trained": 0,
    }
    trained_model = checked.reference.module
    with made.open_twin(setting.backend, max_batch=batch) as runner:
        same, trained = (_Hooked(model, setting.device) for model in (_as_exported(trained_model), trained_model))
        for number in range(batches):
            part = images[number * batch : (number + 1) * batch]
            _one_batch(_faults(made, len(part), number), part, made, runner, same, trained, counts)
            setting.tell({"subject": checked.origin, **counts})
            if setting.left_s < 10:
                break
    wrong = {name: counts[name] for name in ("wrong_before", "wrong_after", "wrong_logits")}
    close = counts["close_as_trained"] >= LEAST_CLOSE * counts["faults"] > 0
    reason = (
        f"rows with other bits than by hooks: {wrong}; close to the module as trained: {counts['close_as_trained']}"
    )
    good = not any(wrong.values()) and close
    return {
        "ok": good,
        **({} if good else {"reason": f"{reason} of {counts['faults']}"}),
        "subject": checked.origin,
        "engine": setting.backend,
        "batch": batch,
        "sites": len(made.sites.ports),
        **counts,
    }


class _Fault:
    """Of one row: its site, element and masks."""

    def __init__(self, site: str, index: int, masks: tuple[int, int, int]) -> None:
        self.site, self.index, self.masks = site, index, masks


def _faults(made: InstrumentedModel, rows: int, seed: int) -> list[_Fault]:
    """Sites and bits in turn, so that a few batches meet each."""
    rng = np.random.default_rng(seed)
    names, found = list(made.sites.ports), []
    for row in range(rows):
        number = seed * rows + row
        site, op = names[number % len(names)], _OPS[number % len(_OPS)]
        bit, word = None if op == "random" else (31 - number) % 32, int(rng.integers(0, 1 << 32))
        found.append(_Fault(site, int(rng.integers(0, made.sites[site].elements)), masks_for(op, FP32, bit, word)))
    return found


def _one_batch(
    faults: list[_Fault],
    images: NDArray[np.float32],
    made: InstrumentedModel,
    runner: Runner,
    same: _Hooked,
    trained: _Hooked,
    counts: dict[str, Any],
) -> None:
    before, after, logits = same.run(images, faults)
    and_, or_, xor = np.array([fault.masks for fault in faults], np.int64).astype(np.uint32).T
    index = np.array([fault.index for fault in faults])
    feed = PortFeed(made.port_numbers([fault.site for fault in faults]), index, and_, or_, xor, before)
    found = runner.run(made.feeds(images, feed))
    live = made.live_words(found, feed)[:, 0]
    ours, theirs = as_words(found[OUTPUT]), as_words(logits)
    both_nan = np.isnan(found[OUTPUT]) & np.isnan(logits)  # a payload is no result
    counts["faults"] += len(faults)
    counts["wrong_before"] += int((live != before).sum())
    counts["wrong_after"] += int((feed.faulty[:, 0] != after).sum())
    counts["wrong_logits"] += int(((ours != theirs) & ~both_nan).any(1).sum())
    counts["not_finite"] += int((~np.isfinite(logits)).any(1).sum())
    _, _, plainly = trained.run(images, faults)
    finite = np.isfinite(plainly) & np.isfinite(found[OUTPUT])
    off = np.abs(np.where(finite, plainly, 0) - np.where(finite, found[OUTPUT], 0).astype(np.float64))
    counts["close_as_trained"] += int(
        ((off <= CLOSE * (1 + np.abs(np.where(finite, plainly, 0)))) & finite).all(1).sum()
    )
    counts["same_class_as_trained"] += int((plainly.argmax(1) == found[OUTPUT].argmax(1)).sum())


class _Hooked:
    """A model on a device, struck by forward hooks on its taps: plain PyTorch, and the NumPy reference for the bits."""

    def __init__(self, model: nn.Module, device: str) -> None:
        self._model, self._device = copy.deepcopy(model).to(device).eval(), device

    def run(
        self, images: NDArray[np.float32], faults: list[_Fault]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
        """Words before and after in each row's struck element (B,), and logits (B, K)."""
        before, after = (np.zeros(len(faults), np.uint32) for _ in range(2))
        with exact(), torch.inference_mode(), self._faulty(faults, before, after):
            logits = self._model(torch.from_numpy(images).to(self._device))
            return before, after, logits.cpu().numpy()

    @contextmanager
    def _faulty(self, faults: list[_Fault], before: NDArray[np.uint32], after: NDArray[np.uint32]) -> Iterator[None]:
        at: dict[str, list[int]] = {}
        for row, fault in enumerate(faults):
            at.setdefault(fault.site, []).append(row)

        def inject(rows: list[int], output: Tensor) -> Tensor:
            injected = output.clone(memory_format=torch.contiguous_format)
            words = injected.view(len(injected), -1).view(torch.int32)  # as integers: no payload is lost on the way
            for row in rows:
                place = (row, faults[row].index)
                held = np.array([words[place].item()], np.int32).view(np.float32)
                made = corrupt(held, *faults[row].masks)
                before[row], after[row] = as_words(held)[0], as_words(made)[0]
                words[place] = int(made.view(np.int32)[0])
            return injected

        known = ReferenceModel.taps(self._model)
        handles = [
            known[site].register_forward_hook(lambda module, inputs, output, rows=rows: inject(rows, output))
            for site, rows in at.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def exact() -> Iterator[None]:
    """Arithmetic as the engine has it: TF32 off, deterministic kernels."""
    before, deterministic = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
            torch.use_deterministic_algorithms(deterministic)


class _Product(nn.Module):
    """A linear layer as two operations: a product per row of the batch, then the sum with the bias."""

    stored: Tensor
    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(linear.weight.detach().clone()), linear.bias
        self.register_buffer("stored", linear.weight.detach().T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.dim() == 2
        weight = self.weight.T if flat else self.stored  # a Gemm's weight is stored as it is, a MatMul's transposed
        wide = x[:, None] if flat else x
        product = torch.bmm(wide, weight.expand(len(wide), *weight.shape))
        product = product[:, 0] if flat else product
        return product if self.bias is None else product + self.bias


def _as_exported(model: nn.Module) -> nn.Module:
    """Every linear layer a product and a sum; tensors contiguous where the graph has them so."""
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, _Product(child))
    for tap in ReferenceModel.taps(plain).values():
        tap.register_forward_hook(lambda module, inputs, output: output.contiguous())
    return plain
