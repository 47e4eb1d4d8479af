"""What must hold before a fault is run: parity with torch, no drift from plain to twin, exact zero-fault rows.

Weights have a gate of their own: `testbed.campaign.evaluate.weights.in_place`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import JsonValue

from testbed.analysis.stats import clopper_pearson
from testbed.campaign.execute.faults import FaultRunner
from testbed.campaign.files import Files
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.gate_facts import AlarmFacts
from testbed.campaign.plan.row import PlanRow, table_of
from testbed.campaign.plan.table import PlanSlice
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.arrays import Words32
from testbed.core.errors import TestbedError
from testbed.core.fault import masks_for
from testbed.core.folder.parsing import json_value
from testbed.core.protected import FLAG, PROTECTION
from testbed.core.site import Site, Where
from testbed.instrument.ports.feed import DTYPES, NO_SITE, PortFeed, to_words

_LISTED = 4  # images in a line
_TIMED_RUNS = 5
DRIFT = "plain-twin"
PARITY = "torch-plain"
WHOLE = "whole-plain"
"""An attention module cut out of a file, and the same tensors of the whole file."""
# Two to ten times what was seen of the digits model, whose largest output is 3.1, on ONNX Runtime, OpenVINO and torch. In
# int8 the deviation is the quantiser's own, and more where sums saturate (OpenVINO without VNNI: 0.75).
_SHARES = {
    PARITY: {"fp32": 1e-5, "fp16": 2e-2, "bf16": 1e-1, "int8": 5e-1},
    WHOLE: {"fp32": 1e-5, "fp16": 2e-2, "bf16": 1e-1, "int8": 5e-1},
    DRIFT: {"fp32": 1e-6, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1},
}
_LEAST = {PARITY: 1e-4, WHOLE: 1e-4, DRIFT: 1e-5}


@dataclass(frozen=True)
class Bounds:
    """Largest deviations that are allowed: as stated, or by the precision's share of the largest output."""

    precision: str
    parity: float | None = None
    drift: float | None = None

    @classmethod
    def of(cls, spec: CampaignSpec) -> Bounds:
        return cls(spec.engine.precision, spec.gates.parity_max_abs, spec.gates.drift_max_abs)

    def of_pair(self, pair: str, largest: float) -> float:
        """The bound for one pair of outputs. largest: magnitude of any output."""
        stated = self.drift if pair == DRIFT else self.parity
        return max(_LEAST[pair], _SHARES[pair][self.precision] * largest) if stated is None else stated


@dataclass(frozen=True)
class OutputDeviation:
    """Largest |d| between two outputs of a target, with its bound. ``top1_agreement``: None where there are no classes."""

    target: str
    pair: str
    max_abs_diff: float
    top1_agreement: float | None
    bound: float

    @property
    def holds(self) -> bool:
        """Whether it is within the bound; a NaN is not."""
        return self.max_abs_diff <= self.bound


def parity(pairs: Sequence[tuple[str, NDArray, NDArray]], target: str, bounds: Bounds) -> list[OutputDeviation]:
    """Compares pairs of outputs. pairs: (name, outputs, outputs), each (n, ...)."""
    deviations = []
    for name, a, b in pairs:
        agreement = float((a.argmax(1) == b.argmax(1)).mean()) if target == "model" else None
        differs = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
        bound = bounds.of_pair(name, float(np.abs(a).max()))
        deviations.append(OutputDeviation(target, name, differs, agreement, bound))
    return deviations


def failing(deviations: Sequence[OutputDeviation]) -> Iterator[str]:
    """Per pair that deviates by more than its bound, what to say."""
    for deviation in deviations:
        if not deviation.holds:
            key = "gates.drift_max_abs" if deviation.pair == DRIFT else "gates.parity_max_abs"
            yield (
                f"{deviation.target}: {deviation.pair} differ by {deviation.max_abs_diff:.3g}, above {key} ="
                f" {deviation.bound:.3g}; the engine does not compute the model, or the bound is too tight for it"
            )


def false_alarms(
    engine: str, images: Sequence[str], alarms: Sequence[NDArray[np.bool_] | None]
) -> tuple[AlarmFacts | None, list[str]]:
    """What is known of alarms without a fault, and what to say where there are any. alarms: of several engines, (n,) of the
    named images each; None of one without checks of its own."""
    seen = [raised for raised in alarms if raised is not None]
    if not seen:
        return None, []
    raised = np.logical_or.reduce(seen)
    n, count = len(raised), int(raised.sum())
    bounds = (float(clopper_pearson(count, n, level).high) for level in (0.90, 0.98))  # each end alone: 95, 99 %
    facts = AlarmFacts(images=n, alarms=count, **dict(zip(("bound_95", "bound_99"), bounds, strict=True)))
    if not count:
        return facts, []
    some = ", ".join(images[row] for row in np.flatnonzero(raised)[:_LISTED])
    return facts, [
        f"the checks of the protected engine raise an alarm on {count} of {n} images without any fault ({some}): their"
        f" thresholds are too tight for {engine}; protect the model again on this engine, or with a larger margin"
    ]


def silent_flags(engine: CampaignEngine) -> list[str]:
    """Flags of the protected twin that, raised by hand, raise no alarm for their image, or raise one for another."""
    flags = [site for site in engine.table if site.where == "activation" and site.name.startswith(FLAG)]
    silent = []
    for start in range(0, len(flags), engine.batch):
        some = flags[start : start + engine.batch]
        image, raised = np.arange(engine.batch) % len(engine.images), np.arange(engine.batch) < len(some)
        site = np.full(engine.batch, NO_SITE, np.int64)
        site[raised] = [engine.table.ports[flag.name] for flag in some]
        words = np.zeros(engine.batch, np.uint32)
        words[raised] = [to_words(np.ones(1, DTYPES[flag.format_name]))[0] for flag in some]
        feed = PortFeed.writing(site, np.zeros(engine.batch, np.int64), words)
        alarms = engine.judged(engine.run(image, feed)[0]).alarms
        wrong = np.flatnonzero(raised) if alarms is None else np.flatnonzero(alarms != raised)
        silent += [some[row].name if row < len(some) else some[-1].name for row in wrong]
    return list(dict.fromkeys(silent))


def second_run_seconds(workplace: Workplace) -> float:
    """What a second run takes per image on the engine as it is deployed, in the campaign's batches; where weights are
    reloaded, the engine is built from its file before it."""
    target, batch = workplace.spec.targets[0], workplace.batch
    engine, request = (
        workplace.engine(target, "activation"),
        workplace.request(target, Files(target).plain),
    )
    start = time.perf_counter()
    with workplace.open(request) as runner:
        opened = time.perf_counter() - start
        feeds = {engine.input_name: engine.inputs(np.arange(batch) % len(engine.images))}
        runner.run(feeds)
        seconds = []
        for _ in range(_TIMED_RUNS):
            start = time.perf_counter()
            runner.run(feeds)
            seconds.append(time.perf_counter() - start)
    reloading = opened if workplace.spec.protection.on_detected == "reload" else 0.0
    return float(np.median(seconds)) / batch + reloading


def passes_of(content: bytes, name: str) -> JsonValue | None:
    """The passes of a protected file, as its metadata has them; None of any other. name: of the file.

    Raises TestbedError where they are damaged.
    """
    if PROTECTION.encode() not in content:
        return None
    props = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    if PROTECTION not in props:
        return None
    try:
        passes: JsonValue = json_value(props[PROTECTION])
    except ValueError as error:
        raise TestbedError(
            f"what {name} says of its protection is damaged ({error}); protect the model again"
        ) from error
    return passes


def zero_fault_slice(
    target: str, where: Where, sites: Sequence[Site], images: Sequence[str], rows: int, seed: int
) -> PlanSlice:
    """Identity masks at random sites, elements and images: the campaign's own path, with nothing changed."""
    rng = np.random.default_rng([seed, 0])
    faults = []
    for number in range(rows):
        site = sites[number % len(sites)]
        image = images[int(rng.integers(len(images)))] if where == "activation" else None
        index, masks = int(rng.integers(site.elements)), masks_for("identity", site.format)
        faults.append(PlanRow.single(target, site, "identity", None, index, masks, image, number))
    return PlanSlice(target, where, table_of(faults))


def zero_fault(runner: FaultRunner, plan_slice: PlanSlice, words: Words32) -> tuple[int, int]:
    """(rows run, rows that are not bit-identical to the engine golden). words: golden words of the plan slice's elements."""
    table = runner.rows(plan_slice, words)
    outcomes = table.column("outcome").cast(pa.string()).to_pylist()
    return table.num_rows, sum(outcome != "identical" for outcome in outcomes)
