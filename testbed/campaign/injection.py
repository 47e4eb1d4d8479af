"""One fault injected by itself, for one image: what it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluated, Injections
from testbed.campaign.evaluate.golden_words import golden_words
from testbed.campaign.evaluate.injections import injections_of, with_golden_words
from testbed.campaign.evaluate.whole import WholeTwin
from testbed.campaign.execute.faults import ActivationFaultRunner, WeightFaultRunner
from testbed.campaign.files import PLAN
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.points import points_path
from testbed.campaign.plan.row import PlanRow, table_of
from testbed.campaign.plan.table import PlanSlice
from testbed.core.fault import Op
from testbed.core.site import Site
from testbed.instrument.ports.feed import numbers_of_format


@dataclass(frozen=True)
class Injection:
    """One fault injected into the compiled engine, for one image.

    Attributes:
        target: "model", or "attention" for its first attention module alone.
        site: The tensor that was hit.
        index: Flat index of the element, in the site's canonical shape.
        op: "flip", "stuck0", "stuck1", "random" or "identity".
        bit: Number of the bit; none for "random".
        image_id: The image.
        label: Its class.
        golden_value: The element without the fault.
        faulty_value: The element with it.
        golden: The engine's output without the fault: logits (K,), or (N, D) of the attention module.
        faulty: The engine's output with it.
        outcome: "identical", "masked", "sdc_tolerable", "sdc1", "sdc", "due" or "detected".
        engine_hash: Hash of the engine that ran.
    """

    target: str
    site: str
    index: int
    op: Op
    bit: int | None
    image_id: str
    label: int
    golden_value: float
    faulty_value: float
    golden: NDArray[np.float32]
    faulty: NDArray[np.float32]
    outcome: str
    engine_hash: str


@dataclass(frozen=True)
class StoredRow:
    """What is stored of one fault and image. ``logits``: (K,) float32; None for a target without classes."""

    fault_id: int
    image_id: str
    outcome: str
    logits: NDArray[np.float32] | None


def inject(workplace: Workplace, site: Site, fault: PlanRow) -> Injection:
    """Run a fault of one named image through the whole twin, whatever the campaign used: the reference of all other
    evaluations."""
    assert fault.image_id is not None
    target, image = fault.target, workplace.images.row(fault.image_id)
    engine, judge = workplace.engine(target, site.where), workplace.judge
    target_place = PlanSlice(target, site.where, table_of([fault]), points_path(workplace.folder / PLAN))
    if site.where == "activation":
        words = golden_words(workplace, target_place)
        _, injections = injections_of(target_place, engine.table, engine.images)
        ports = with_golden_words(injections, words).ports
        runner = ActivationFaultRunner(engine, (kept := _Kept(WholeTwin(engine))), judge)
        rows = runner.rows(target_place, words)
        faulty, before, after = kept.outputs[0], ports.golden[0, :1], ports.faulty[0, :1]
    else:
        weights = WeightFaultRunner(engine, judge)
        outputs, before, after, _ = weights.inject(target_place, 0, np.array([image]))
        rows, faulty = weights.rows(target_place, np.zeros(0, np.uint32)), outputs[0]
    return Injection(
        target=target,
        site=site.name,
        index=fault.index,
        op=fault.op,
        bit=fault.bit,
        image_id=fault.image_id,
        label=int(engine.images.labels[image]),
        golden_value=float(numbers_of_format(before[:1], site.format_name)[0]),
        faulty_value=float(numbers_of_format(after[:1], site.format_name)[0]),
        golden=engine.side.stored[image],
        faulty=engine.judged(faulty[None]).values[0],
        outcome=str(rows.column("outcome")[0].as_py()),
        engine_hash=engine.runner.info.hash,
    )


class _Kept:
    """An evaluator that keeps the outputs it has found."""

    def __init__(self, evaluator: WholeTwin) -> None:
        self._evaluator = evaluator
        self.outputs: list[NDArray[np.float32]] = []

    @property
    def golden(self) -> NDArray[np.float32]:
        return self._evaluator.golden

    def evaluate(self, injections: Injections) -> Iterator[Evaluated]:
        for evaluated in self._evaluator.evaluate(injections):
            self.outputs.extend(evaluated.outputs)
            yield evaluated
