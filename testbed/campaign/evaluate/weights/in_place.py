"""Which weights may be struck in place: those whose faults act as in an engine that is built from the faulty file.

Engines may copy, fold or repack weights: a change is then ignored. Or they may use a tensor in only some of the places
where the file does (a DequantizeLinear and a QuantizeLinear of equal parameters that are dropped as a pair): a change is
then half applied. Both would be stored as rates of faults that never were. Tensors that fail are left out, by name and
with the reason; each costs one build of the engine, so of plain floating-point weights with one use a sample is compared.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from testbed.campaign.files import Files
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.gate_facts import LeftOut, WeightGate
from testbed.core.errors import EngineError
from testbed.core.fault import Masks, masks_for, masks_for_bits
from testbed.core.folder.files import sha256_bytes
from testbed.core.site import Site
from testbed.engines.runner import Runner, WeightInjector, faulty_weight
from testbed.engines.weights import Weights, numbers_of
from testbed.semantics import as_words, corrupt

log = logging.getLogger(__name__)

NO_EFFECT = (
    "a change has no effect on the output, in place or in the file: nothing that the engine computes depends on it"
)
UNHEARD = "a change in place has no effect on the output: the engine holds a copy of it, or does not use it"
COPIED = "a change in place has no effect, and one in the file has: the engine holds a copy of it"
HALF_APPLIED = (
    "struck in place, it gives other outputs than an engine built from the faulty file: the engine uses it in only some of"
    " the places where the file does"
)
_CANARY_TRIES = 16
_SILENT_BITS = 8
_SAMPLED = 6
_SAMPLED_INPUTS = 2  # where the engine is fed its weights anew for every run
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)

Rebuild = Callable[[bytes], Runner]
"""The content of a plain ONNX file -> an engine with weights that can be struck, built as the bench's own."""


def weight_gate(
    engine: CampaignEngine,
    sites: Sequence[Site],
    plain: bytes,
    rebuild: Rebuild,
    seed: int,
    advance: Callable[[int], None] = lambda tensors: None,
    beside: Weights | None = None,
) -> WeightGate:
    """One loud fault per tensor must change the output, and its undoing must restore it bit for bit.

    For every tensor at risk (quantised, a scale or zero point, of several uses), for each that is not heard and for a
    sample of the others, a fault in place must give the very outputs of an engine built from the faulty file.
    ``advance`` is told of tensors that are done; ``beside``: weights that ``plain`` only names. Raises EngineError where the
    output is not restored.
    """
    file = _PlainFile(plain, beside or {}, rebuild)
    comparable = equal_outputs(file.outputs(engine), engine.golden)
    inputs = engine.runner.info.options.get("weights") == "inputs"
    at_risk = set() if inputs else file.at_risk()
    rng = np.random.default_rng([seed, len(sites)])
    others = [site.name for site in sites if site.tensor not in at_risk]
    sample = set(rng.permutation(others)[: _SAMPLED_INPUTS if inputs else _SAMPLED].tolist())
    compared, left_out = 0, []
    for site in sites:
        silent = not heard(engine, site)
        wanted = comparable and (silent or site.tensor in at_risk or site.name in sample)
        reason = _judged(engine, file, site, silent, seed) if wanted else UNHEARD if silent else None
        compared += wanted
        if reason is not None:
            left_out.append(LeftOut(target=engine.target, site=site.name, reason=reason))
        advance(1)
    check_restored(engine)
    return WeightGate(tensors=len(sites), compared=compared, left_out=left_out)


def weight_gate_of(
    workplace: Workplace,
    engine: CampaignEngine,
    sites: Sequence[Site],
    advance: Callable[[int], None] = lambda tensors: None,
) -> WeightGate:
    """`weight_gate` of a campaign's engine."""
    request = workplace.request(engine.target, Files(engine.target).plain, mutable_weights=True)

    def rebuild(model: bytes) -> Runner:
        return workplace.open(replace(request, onnx=model, file_sha256=sha256_bytes(model)))

    return weight_gate(engine, sites, request.onnx, rebuild, workplace.spec.seed, advance, beside=request.weights)


def weight_canary(engine: CampaignEngine, sites: Sequence[Site]) -> None:
    """Raises EngineError naming the tensors in which no loud fault is heard, or where the output is not restored."""
    deaf = [site.name for site in sites if not heard(engine, site)]
    if deaf:
        leave_out = ", ".join(f'"!{name}"' for name in deaf)
        raise EngineError(
            f"weight {', '.join(deaf)} can be changed without any effect: the engine holds a copy of it, or does not use it;"
            f" leave it out: {leave_out}"
        )
    check_restored(engine)


def check_restored(engine: CampaignEngine) -> None:
    """Raises EngineError unless the engine, with nothing struck, gives its golden outputs."""
    if engine.outputs().tobytes() != engine.golden.tobytes():
        raise EngineError("the engine's output is not restored after weight faults were undone")


def heard(engine: CampaignEngine, site: Site) -> bool:
    """Whether a loud fault in some element of the weight changes the output; then, for scalars, one in any bit."""
    rng = np.random.default_rng([site.elements, len(site.name)])
    places = rng.choice(site.elements, size=min(_CANARY_TRIES, site.elements), replace=False)
    loud = [masks_for("flip", site.format, site.format.bits - 2)]
    other = [masks_for("flip", site.format, bit) for bit in range(site.format.bits) if bit != site.format.bits - 2]
    return any(
        not np.array_equal(_faulty_outputs(engine, site, int(index), masks), engine.golden, equal_nan=True)
        for index, masks in _tries(places, loud, other)
    )


def _tries(places: NDArray[np.int64], loud: Sequence[Masks], other: Sequence[Masks]) -> Iterator[tuple[int, Masks]]:
    yield from ((int(index), masks) for masks in loud for index in places)
    yield from ((int(places[number % len(places)]), masks) for number, masks in enumerate(other))


def _judged(engine: CampaignEngine, file: _PlainFile, site: Site, silent: bool, seed: int) -> str | None:
    """Why the tensor may not be struck in place; None where it may."""
    rng = np.random.default_rng([seed, site.elements, len(site.name), 1])
    faults = [_visible(site)]
    if silent:  # to say that nothing depends on it takes more than one
        bits = range(site.format.bits - 1, -1, -max(1, site.format.bits // _SILENT_BITS))
        faults += [masks_for("flip", site.format, bit) for bit in bits]
    for masks in faults:
        index = int(rng.integers(site.elements))
        in_place = _faulty_outputs(engine, site, index, masks)
        with file.faulty(site, index, masks):
            from_file = file.outputs(engine)
        if not equal_outputs(in_place, from_file):
            return COPIED if silent else HALF_APPLIED
    return NO_EFFECT if silent else None


def _visible(site: Site) -> Masks:
    """A fault that is seen and does not saturate what follows: minus twice (or half) of a float, some steps of an integer."""
    form = site.format
    return masks_for_bits("flip", form, [form.mantissa, form.bits - 1] if form.exponent else [form.bits // 2])


def _faulty_outputs(engine: CampaignEngine, site: Site, index: int, masks: Masks) -> NDArray[np.float32]:
    """(images, ...)"""
    runner = engine.runner
    assert isinstance(runner, WeightInjector)
    with faulty_weight(runner, site.tensor, site.stored_index(index), masks):
        return engine.outputs()


def equal_outputs(left: NDArray, right: NDArray) -> bool:
    """Whether all elements have the same bits, or are both NaN."""
    return bool(((as_words(left) == as_words(right)) | (np.isnan(left) & np.isnan(right))).all())


class _PlainFile:
    """The plain file, to be changed in one word and built again."""

    def __init__(self, plain: bytes, beside: Weights, rebuild: Rebuild) -> None:
        self._proto: ModelProto = onnx.load_from_string(plain)
        self._beside = beside
        self._rebuild = rebuild
        self._stored = {tensor.name: tensor for tensor in self._proto.graph.initializer}

    def at_risk(self) -> set[str]:
        """Tensors that an engine may use in other places than the file: integers, what is quantised or quantises, and
        those of several uses."""
        uses: Counter[str] = Counter()
        quantised = set()
        for node in self._proto.graph.node:
            uses.update(name for name in node.input if name in self._stored)
            if "Quant" in node.op_type or "Integer" in node.op_type or node.op_type.startswith("QLinear"):
                quantised.update(node.input)
        return {
            name
            for name, tensor in self._stored.items()
            if uses[name] > 1 or name in quantised or tensor.data_type not in _FLOATS
        }

    def outputs(self, engine: CampaignEngine) -> NDArray[np.float32]:
        """(images, ...) of an engine built from the file as it is now."""
        with self._rebuild(self._proto.SerializeToString()) as runner:
            return engine.on(runner).outputs()

    @contextmanager
    def faulty(self, site: Site, index: int, masks: Masks) -> Iterator[None]:
        """The file has that fault in it for the length of the block."""
        tensor, kept = self._stored[site.tensor], TensorProto()
        kept.CopyFrom(tensor)
        array = np.array(numbers_of(tensor, self._beside), order="C")
        flat, at = array.reshape(-1), np.array([site.stored_index(index)])
        words = corrupt(flat[at], *(np.array([mask], np.uint32) for mask in masks))
        as_words(flat)[at] = as_words(words)
        tensor.CopyFrom(numpy_helper.from_array(array, site.tensor))
        try:
            yield
        finally:
            tensor.CopyFrom(kept)
