"""One stored fault of a campaign in the eager model: what is inside the model while it acts.

The engine tells outputs only. Here the same fault acts on the PyTorch model of the campaign, so that every hidden state
can be looked at:

    fault = read_stored_fault(run, 4711)
    with faulty_states(as_deployed(model), fault) as recorder, torch.inference_mode():
        for states in recorder.blocks(recorder.embed(image)): ...

At the sites of an activation fault stand the very bits that the engine held there, golden and faulty, as the campaign
stored them; a weight's bits are changed by the fault's own masks. What follows from them is PyTorch's arithmetic, which
agrees with the engine's to rounding; so the caller can compare the prediction with the stored row's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from testbed.campaign.files import PLAN
from testbed.campaign.plan.points import Points, points_path
from testbed.campaign.plan.table import PlanSlice, read_plan
from testbed.campaign.run import Run
from testbed.core.arrays import Words32
from testbed.core.errors import UsageError
from testbed.core.site import SiteTable, Where
from testbed.instrument.ports.feed import NO_SITE, numbers
from testbed.models.vit import ViT, taps
from testbed.semantics import corrupt
from testbed.sensitivity.class_space.recorder import Edit, StateRecorder, recorded
from testbed.sweep.injections import planned_injections

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class FaultyWords:
    """Faulty elements of one tensor.

    site: its name; format_name: "fp32", "fp16" or "bf16"; index: (k,) flat, in the site's canonical shape; faulty: (k,)
    bits to be there, None for a weight; masks: (k,) and, or, xor.
    """

    site: str
    format_name: str
    index: NDArray[np.int64]
    masks: tuple[Words32, Words32, Words32]
    golden: Words32 | None = None
    faulty: Words32 | None = None


@dataclass(frozen=True)
class StoredFault:
    """A planned fault, the image it is looked at on, and what the campaign stored of it.

    stored_outcome and stored_top1 are None while the campaign is not finished, and for the attention module's faults
    there is no stored_top1.
    """

    fault_id: int
    target: str
    where: Where
    op: str
    pattern: str
    bit: int | None
    block: int | None
    image_id: str
    label: int
    words: tuple[FaultyWords, ...]
    stored_outcome: str | None
    stored_top1: int | None

    @property
    def site(self) -> str:
        """The first faulty tensor."""
        return self.words[0].site


def read_stored_fault(run: Run, fault_id: int, image: str | None = None) -> StoredFault:
    """Look a fault up.

    image: for faults that act on every image; by default the first named one. Raises UsageError for a fault or an image
    that does not exist, and for words that are integers: the eager model has no such words.
    """
    row = run.stored(fault_id)
    target, where = row.target, row.where
    image = run.image_of(row, image)
    position = run.workplace.images.row(image)
    table = run.sites(target)
    plan = read_plan(run.folder / PLAN)
    chosen = np.flatnonzero(pc.equal(plan.column("fault_id"), fault_id).to_numpy())
    points = PlanSlice(target, where, plan.take(pa.array(chosen)), points_path(run.folder / PLAN)).points
    golden, faulty = _stored_words(run, target, plan, chosen, position) if where == "activation" else (None, None)
    stored = run.stored_row(fault_id, image)
    logits = None if stored is None else stored.logits
    return StoredFault(
        fault_id=fault_id,
        target=target,
        where=where,
        op=row.op,
        pattern=row.pattern,
        bit=row.bit,
        block=table[row.site].block,
        image_id=image,
        label=int(run.workplace.images.labels[position]),
        words=tuple(words_by_site(points, 0, table, golden, faulty)),
        stored_outcome=None if stored is None else str(stored.outcome),
        stored_top1=None if logits is None or not len(logits) else _top1(logits),
    )


def _stored_words(
    run: Run, target: str, plan: pa.Table, chosen: NDArray[np.int64], position: int
) -> tuple[Words32, Words32]:
    """(K,) golden and faulty words of one activation fault, on one image."""
    _, injections = planned_injections(run.workplace, target, plan, chosen)
    at = int(np.flatnonzero(injections.image == position)[0])
    return injections.ports.golden[at], injections.ports.faulty[at]


def words_by_site(
    points: Points, fault: int, table: SiteTable, golden: Words32 | None, faulty: Words32 | None
) -> Iterator[FaultyWords]:
    """The words of one of the faults, together for each tensor. golden, faulty: (K,), of an activation fault.

    Raises UsageError for words that are integers.
    """
    sites = points.site[fault]
    for code in dict.fromkeys(sites[sites != NO_SITE].tolist()):
        at = sites == code
        site = table[points.names[code]]
        if site.format_name not in FLOATS:
            raise UsageError(
                f"{site.name} holds {site.format_name}: the inside of a fault is looked at in the eager model, which has"
                " floating-point words only; use a campaign of engine.precision fp32, fp16 or bf16"
            )
        yield FaultyWords(
            site.name,
            site.format_name,
            points.index[fault, at],
            (points.and_mask[fault, at], points.or_mask[fault, at], points.xor_mask[fault, at]),
            None if golden is None else golden[at],
            None if faulty is None else faulty[at],
        )


def _top1(logits: NDArray[np.float32]) -> int:
    """The first of the largest; a NaN counts as the largest, as in outcomes."""
    return int(np.argmax(logits))


class DeployedLayerNorm(nn.LayerNorm):
    """LayerNorm as ONNX defines it: d / sqrt(mean(d^2) + eps), d = x - mean. A value whose square overflows gives 0 for
    its row, where PyTorch's own kernel gives NaN; a faulty value is often such a one."""

    def forward(self, x: Tensor) -> Tensor:
        deviation = x - x.mean(-1, keepdim=True)
        scale = (deviation.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return deviation / scale * self.weight + self.bias


def as_deployed(model: ViT) -> ViT:
    """A copy of the model with every LayerNorm as engines compute it, in evaluation mode."""
    deployed = copy.deepcopy(model).eval()
    for module in deployed.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = DeployedLayerNorm
    return deployed


@contextmanager
def faulty_states(model: ViT, fault: StoredFault) -> Iterator[StateRecorder]:
    """A recorder of ``model`` in which the fault acts; afterwards the model is as it was. Run it on that one image.

    Raises UsageError for a tensor that the model does not have.
    """
    if fault.where == "activation":
        with recorded(model, activation_edits(model, fault)) as recorder:
            yield recorder
        return
    with _faulty_weights(model, fault), recorded(model) as recorder:
        yield recorder


def activation_edits(model: ViT, fault: StoredFault) -> Mapping[str, Edit]:
    """Site -> what writes the stored faulty bits into its tensor (1, ...)."""
    known = taps(model)
    for words in fault.words:
        if words.site not in known:
            raise UsageError(
                f"{words.site} is no tensor of the eager model; name a fault in one of these: {', '.join(list(known)[:4])}, ..."
            )
    return {words.site: _writing(words) for words in fault.words}


def _writing(words: FaultyWords) -> Edit:
    assert words.faulty is not None
    bits = _signed_words(words.faulty, words.format_name)
    index = torch.from_numpy(words.index)

    def write(values: Tensor) -> Tensor:
        if len(values) != 1:
            raise UsageError("a stored fault acts on one image; run the recorder on that image alone")
        changed = values.clone(memory_format=torch.contiguous_format)
        _write_words(changed.view(-1), index, bits, words.format_name)
        return changed

    return write


def _signed_words(words: Words32, format_name: str) -> Tensor:
    """(k,) the same bits, as integers of the format's width."""
    if format_name == "fp32":
        return torch.from_numpy(words.view(np.int32))
    return torch.from_numpy(words.astype(np.uint16).view(np.int16))


def _write_words(flat: Tensor, index: Tensor, bits: Tensor, format_name: str) -> None:
    """Write words of a format into a flat float32 tensor; those of fp32 as bits, which keep a NaN as it is."""
    if format_name == "fp32":
        flat.view(torch.int32)[index] = bits.to(flat.device)
    else:
        flat[index] = bits.view(FLOATS[format_name]).to(flat.device, flat.dtype)


@contextmanager
def _faulty_weights(model: ViT, fault: StoredFault) -> Iterator[None]:
    parameters = dict(model.named_parameters())
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for words in fault.words:
            if words.site not in parameters:
                raise UsageError(f"{words.site} is no weight of the eager model")
            weight = parameters[words.site].data
            kept.append((weight, weight.clone()))
            flat, index = weight.view(-1), torch.from_numpy(words.index)
            stored = flat[index].to(FLOATS[words.format_name])
            before = stored.view(torch.int32 if words.format_name == "fp32" else torch.int16).numpy()
            _write_words(flat, index, torch.from_numpy(corrupt(before, *words.masks)), words.format_name)
        yield
    finally:
        for weight, kept_values in kept:
            weight.copy_(kept_values)


def values_of(words: FaultyWords) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """(k,) golden and faulty values, for people; None for a weight."""
    if words.golden is None or words.faulty is None:
        return None
    names = [words.format_name] * len(words.golden)
    return numbers(words.golden, names), numbers(words.faulty, names)
