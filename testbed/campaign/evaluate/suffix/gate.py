"""The gate of suffix replay: the same bits as the whole twin, shown on this engine, or the shortcut stays off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluator, Injections, NotDeterministic, same_words
from testbed.campaign.evaluate.suffix.evaluator import SuffixEvaluator
from testbed.campaign.evaluate.suffix.routes import Way
from testbed.campaign.evaluate.suffix.sample import PER_KIND, sample
from testbed.campaign.evaluate.suffix.shortcuts import BARE, SHORTCUTS, STYLES, Shortcuts
from testbed.campaign.proofs import SuffixRecord, SuffixTrial, WayCheck
from testbed.core.arrays import Words32
from testbed.core.errors import EngineError
from testbed.core.site import Site, SiteTable
from testbed.instrument.cut.flow import CannotCut

MakeSuffixEvaluator = Callable[[Shortcuts], SuffixEvaluator]
Live = Callable[[Injections], Words32]
"""Golden words (n, K) of strikes whose own are not known yet; 0 where there is no point."""


_COARSE = 4


@dataclass(frozen=True)
class SuffixProof:
    """``plan``: what may be used; None where nothing may, and the whole twin is run. ``record``: what was seen."""

    plan: Shortcuts | None
    record: SuffixRecord


@dataclass
class _Trial:
    """How one plan did. ``ways``: way -> [rows, rows whose bits differ]."""

    golden: int = 0
    ways: dict[str, list[int]] = field(default_factory=dict)
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and not self.golden and not any(wrong for _, wrong in self.ways.values())

    def describe(self) -> str:
        wrong = [f"{way.lower()} {bad} of {rows}" for way, (rows, bad) in self.ways.items() if bad]
        return self.error or "; ".join([*([f"golden {self.golden} images"] if self.golden else []), *wrong])


def prove_suffix(
    make: MakeSuffixEvaluator,
    whole: Evaluator,
    live: Live,
    images: int,
    seed: int,
    per_site_kind: int = PER_KIND,
    sites: Sequence[Site] | None = None,
) -> SuffixProof:
    """Evaluates a seeded sample of real faults of every kind of site in the first, a middle and the last block, both ways.

    make: an evaluator by a plan, over the same strikes, images and golden as ``whole``. sites: the activations that the
    campaign strikes; all of the table unless given. per_site_kind: faults per kind,
    block, and number of points (one, or two anywhere in the tensor); half of them in the first token, where a head may
    look. Everything is on if all bits are equal; else each shortcut is tried by itself. Raises EngineError when the whole
    twin fails.
    """
    wanted: tuple[Injections, NDArray[np.float32]] | None = None
    tried: list[SuffixTrial] = []

    def trial(plan: Shortcuts) -> _Trial:
        nonlocal wanted
        outcome = _Trial()
        try:
            evaluator = make(plan)
        except CannotCut as error:
            return _Trial(error=str(error))
        try:
            if wanted is None:
                table = evaluator.stages.table
                each = per_site_kind * repeats(table)
                injections = sample(table.ports, table if sites is None else sites, live, images, each, seed)
                wanted = injections, outputs_of(whole, injections)
            outcome = _compared(evaluator, whole, *wanted)
        except (EngineError, NotDeterministic, CannotCut) as error:
            outcome.error = str(error)
        finally:
            evaluator.close()
        tried.append(SuffixTrial(plan=plan.record(), passed=outcome.passed, wrong=outcome.describe()))
        return outcome

    plan, last = _search(trial)
    record = SuffixRecord(
        plan=None if plan is None else plan.record(),
        golden_images=images,
        golden_mismatches=last.golden,
        rows=sum(rows for rows, _ in last.ways.values()),
        ways={way: WayCheck(rows=rows, mismatches=wrong) for way, (rows, wrong) in sorted(last.ways.items())},
        tried=tried,
        error=last.error,
    )
    return SuffixProof(plan, record)


def repeats(table: SiteTable) -> int:
    """How many times as many faults the gate needs: in coarse formats a difference on the way is often rounded away before
    the output."""
    return 1 if all(site.format.bits == 32 for site in table if site.where == "activation") else _COARSE


def _search(trial: Callable[[Shortcuts], _Trial]) -> tuple[Shortcuts | None, _Trial]:
    """The plan with as many shortcuts as pass, and its trial (or that of the last one that did not)."""
    last = trial(Shortcuts())
    if last.passed:
        return Shortcuts(), last
    for style in STYLES:
        plan = BARE.with_(style=style)
        last = trial(plan)
        if last.passed:
            break
    else:
        return None, last
    for shortcut in SHORTCUTS:
        more = trial(plan.with_(**{shortcut: True}))
        if more.passed:
            plan, last = plan.with_(**{shortcut: True}), more
    return plan, last


def _compared(
    evaluator: SuffixEvaluator, whole: Evaluator, injections: Injections, wanted: NDArray[np.float32]
) -> _Trial:
    trial = _Trial(golden=int((~evaluator.golden_by_pieces()).sum()))
    if trial.golden:
        return trial
    same = same_words(outputs_of(evaluator, injections), wanted)
    ways, _, _ = evaluator.routes.ways(injections)
    for way in np.unique(ways):
        by_way = ways == way
        trial.ways[Way(way).name.lower()] = [int(by_way.sum()), int((~same[by_way]).sum())]
    return trial


def outputs_of(evaluator: Evaluator, injections: Injections) -> NDArray[np.float32]:
    """(n, ...) of all strikes, in their order."""
    parts = list(evaluator.evaluate(injections))
    order = np.argsort(np.concatenate([part.rows for part in parts]), kind="stable")
    return np.ascontiguousarray(np.concatenate([part.outputs for part in parts])[order])
