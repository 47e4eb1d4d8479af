"""The pilot of `images = "auto"`: on how many images each persistent fault is run, decided before anything is planned.

Some faults of every kind are run on a few images each: how alike the images of a fault are, and what a fault and a row take,
say how many are best (`testbed.analysis.second_stage`). The pilot steers and nothing else: its rows count in no rate.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from testbed.analysis.second_stage import EventComponents, best_units, costs_of, pooled_correlation
from testbed.campaign.evaluate.choose import unproven_weights
from testbed.campaign.execute.faults import WeightFaultRunner
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace, even_batch
from testbed.campaign.image_facts import ChosenImages, ImageFacts
from testbed.campaign.plan.draw import Stratum, draw_at_random, seed_of
from testbed.campaign.plan.points import points_path
from testbed.campaign.plan.row import Origin, PlannedFault, planned_fault
from testbed.campaign.plan.sections import sampled_strata
from testbed.campaign.plan.table import PlanSlice, in_parts, read_plan, write_plan
from testbed.campaign.prepare.stages import Preparation
from testbed.core.arrays import Bools
from testbed.core.outcome import NOT_OUTSIDE, Outcome
from testbed.core.site import SiteTable, Where

log = logging.getLogger(__name__)

DEFAULT = 4
"""Images of a fault where too few events are seen to say."""
_PILOT_IMAGES = 4
_ROUND = 16  # faults of each kind
_MOST_ROUNDS, _MOST_FAULTS = 6, 640
_ENOUGH, _TOO_FEW = 24, 6  # faults with an event
_TIMED_SITES, _TIMED_FAULTS, _REPEATS = 8, 24, 4

_NO_WORDS = np.zeros(0, np.uint32)

FaultKind = tuple[str, str, str]  # operation, pattern, class of the bit


def chosen_images(workplace: Workplace, preparation: Preparation) -> ImageFacts:
    """Decides for every place whose spec leaves it open. Raises EngineError."""
    places = workplace.spec.auto_places
    chosen = []
    with preparation.watch("images", len(places), "places of lasting faults") as advance:
        for target, where in places:
            chosen.append(_chosen(workplace, target, where))
            log.info("images: %d of %d per fault in %ss of %s: %s", *_logged(chosen[-1]))
            advance(1)
    return ImageFacts(chosen=chosen)


def _logged(chosen: ChosenImages) -> tuple[object, ...]:
    return chosen.images, chosen.of, chosen.where, chosen.target, chosen.why


def _chosen(workplace: Workplace, target: str, where: Where) -> ChosenImages:
    named = len(workplace.images)
    if named == 1:
        return ChosenImages(target=target, where=where, images=1, of=1, why="one image is named")
    if where == "activation":
        why = "an activation fault takes no longer than its rows: each is run on one image, and more faults are drawn"
        return ChosenImages(target=target, where=where, images=1, of=named, why=why)
    pilot = _Pilot(workplace, target)
    kinds = pilot.run()
    events = sum(int(kind.some.sum()) for kind in kinds.values())
    fault_seconds, row_seconds = pilot.costs()
    correlation = pooled_correlation(
        [EventComponents.of(kind.matrix) for kind in kinds.values()], [kind.population for kind in kinds.values()]
    )
    faults = sum(len(kind.matrix) for kind in kinds.values())
    images, why = min(DEFAULT, named), f"only {events} of {faults} pilot faults had an event: a careful default"
    if correlation is not None and events >= _TOO_FEW:
        best = best_units(fault_seconds, row_seconds, correlation, named)
        images, why = best.units, f"sqrt(c_fault / c_row x (1 - rho) / rho) = {best.exact:.3g}"
    return ChosenImages(
        target=target,
        where=where,
        images=images,
        of=named,
        correlation=None if correlation is None or events < _TOO_FEW else round(correlation, 4),
        fault_seconds=float(f"{fault_seconds:.4g}"),
        row_seconds=float(f"{row_seconds:.4g}"),
        pilot_faults=faults,
        pilot_events=events,
        why=why,
    )


@dataclass
class _KindOfFault:
    """Strata that are alike, and what was seen of their faults. events: each of (faults, images)."""

    strata: list[Stratum] = field(default_factory=list)
    events: list[Bools] = field(default_factory=list)

    @property
    def population(self) -> float:
        return float(sum(stratum.population for stratum in self.strata))

    @property
    def matrix(self) -> Bools:
        return np.concatenate(self.events)

    @property
    def some(self) -> Bools:
        """(faults,) with an event on any image."""
        return np.asarray(self.matrix.any(1))

    def faults(self, workplace: Workplace, name: str, numbers: range) -> Iterator[PlannedFault]:
        """Faults drawn from all strata as from one, with their images; the seed and the name decide which."""
        shares = np.array([float(stratum.population) for stratum in self.strata])
        for number in numbers:
            rng = np.random.default_rng(seed_of(workplace.spec.seed, f"images/{name}", number))
            stratum = self.strata[int(rng.choice(len(shares), p=shares / shares.sum()))]
            origin = Origin(0, stratum.population, None)
            draw = draw_at_random(stratum, number, rng)
            yield planned_fault(number, stratum, draw, workplace.table(stratum.target), origin)


class _Pilot:
    """Runs faults in the weights of a target, in engines of its own."""

    def __init__(self, workplace: Workplace, target: str) -> None:
        self.workplace, self.target, self.named = workplace, target, len(workplace.images)
        self._images = min(_PILOT_IMAGES, self.named)

    def run(self) -> Mapping[FaultKind, _KindOfFault]:
        """Faults of every kind, in rounds, until enough of them have had an event; by the whole engine."""
        kinds = self._kinds()
        with self._engine(self._images) as engine:
            whole = WeightFaultRunner(engine, self.workplace.judge)
            for number in range(max(1, min(_MOST_ROUNDS, _MOST_FAULTS // (_ROUND * len(kinds))))):
                for kind, of_kind in kinds.items():
                    numbers = range(number * _ROUND, (number + 1) * _ROUND)
                    with self._slice(
                        of_kind.faults(self.workplace, f"{self.target}/{'/'.join(kind)}", numbers)
                    ) as faults:
                        rows = whole.rows(faults, _NO_WORDS)
                    of_kind.events.append(self._is_event(rows).reshape(_ROUND, self._images))
                if sum(int(kind.some.sum()) for kind in kinds.values()) >= _ENOUGH:
                    break
        return kinds

    def costs(self) -> tuple[float, float]:
        """(seconds of a fault, seconds of a row) of faults in tensors from the first to the last, as they will be run."""
        sizes = (1, self._images)
        least = dict.fromkeys(sizes, math.inf)
        with ExitStack() as stack:
            runs = {size: stack.enter_context(self._timed(size)) for size in sizes}
            for _ in range(_REPEATS):  # in turns, as other work on the machine comes and goes
                for size, run in runs.items():
                    least[size] = min(least[size], run())
        return costs_of(sizes, list(least.values()))

    @contextmanager
    def _timed(self, images: int) -> Iterator[Callable[[], float]]:
        """What gives the seconds that a fault on so many images takes, once everything is open."""
        by_site: dict[str, _KindOfFault] = {}
        for stratum in self._strata(images):
            by_site.setdefault(stratum.site.name, _KindOfFault()).strata.append(stratum)
        sites = list(by_site.items())
        few = [sites[at] for at in np.linspace(0, len(sites) - 1, min(_TIMED_SITES, len(sites))).round().astype(int)]
        planned: list[PlannedFault] = []
        for name, of_site in few:
            numbers = range(-(-_TIMED_FAULTS // len(few)))
            planned += of_site.faults(self.workplace, f"{self.target}/{name}/timed", numbers)
        with self._engine(images) as engine, self._slice(planned) as faults, ExitStack() as stack:
            suffix = unproven_weights(self.workplace, engine)
            if suffix is not None:
                stack.callback(suffix.close)
            runner = WeightFaultRunner(engine, self.workplace.judge, None if suffix is None else suffix.inject)
            runner.rows(faults, _NO_WORDS)  # opens what there is to open

            def run() -> float:
                start = time.perf_counter()
                runner.rows(faults, _NO_WORDS)
                return (time.perf_counter() - start) / len(planned)

            yield run

    # ---- faults and engines

    def _strata(self, images: int) -> Iterator[Stratum]:
        spec = self.workplace.spec.with_images(dict.fromkeys(self.workplace.spec.auto_places, images))
        tables: dict[str, SiteTable] = {target: self.workplace.table(target) for target in spec.targets}
        tier_images = self.workplace.images.per_tier(len(spec.tiers.edges))
        for sampled in sampled_strata(spec.faults, tables, tier_images):
            if (sampled.stratum.target, sampled.stratum.site.where) == (self.target, "weight"):
                yield sampled.stratum

    def _kinds(self) -> dict[FaultKind, _KindOfFault]:
        kinds: dict[FaultKind, _KindOfFault] = {}
        for stratum in self._strata(self._images):
            kind = (stratum.op, stratum.pattern, stratum.site.format.bit_class(stratum.bit))
            kinds.setdefault(kind, _KindOfFault()).strata.append(stratum)
        return kinds

    @contextmanager
    def _engine(self, images: int) -> Iterator[CampaignEngine]:
        """The engine of faults that are run on so many images."""
        batch = even_batch(images, self.workplace.batch) if images < self.named else self.workplace.batch
        engine = self.workplace.opened(self.target, "weight", batch)
        with engine.runner:
            yield engine

    @contextmanager
    def _slice(self, faults: Iterable[PlannedFault]) -> Iterator[PlanSlice]:
        """Faults as a runner takes them; the words of those that strike several lie in a file for so long."""
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder) / "pilot.parquet"
            write_plan(plan, in_parts(faults))
            yield PlanSlice(self.target, "weight", read_plan(plan), points_path(plan))

    def _is_event(self, rows: pa.Table) -> Bools:
        stop = self.workplace.spec.stop
        measure = ("sdc1" if self.target == "model" else "outside") if stop is None else stop.measure
        outcomes = np.array(rows.column("outcome").cast(pa.string()).to_pylist(), object)
        return np.asarray(outcomes == Outcome.SDC1 if measure == "sdc1" else ~np.isin(outcomes, NOT_OUTSIDE), bool)
