"""Does an engine reproduce the golden? Every recorded image, or those of the subset, compared element by element."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.compare import Deviation, Tolerance, by_row
from testbed.analysis.outputs.confidence import TierEdges
from testbed.engines.backends import check_engine
from testbed.engines.runner import open_engine
from testbed.golden.deployment import ends_of, part_in_campaign, plain_engine
from testbed.golden.injections import INJECTED_IMAGES, check_images, injected
from testbed.golden.recorded import Golden, is_campaign, open_golden, working_in
from testbed.golden.recording import Advance, module_name, no_progress
from testbed.golden.reference import LOGITS
from testbed.golden.subset import recorded_subset
from testbed.golden.tiers import golden_tiers, recorded_edges


@dataclass(frozen=True)
class TierDeviation:
    """Deviations of the tier (low, high]. The last two are None for a tier without images; ``smallest_atol`` is at the
    given rtol; both are infinite (null in JSON) where one side is not finite."""

    low: float
    high: float
    n: int
    faulty: int
    max_abs_diff: float | None
    smallest_atol: float | None


@dataclass(frozen=True)
class Verification:
    """``faulty_images`` are positions among the images compared (in the subset, where there is one)."""

    target: str
    engine: str
    engine_hash: str
    deployment_id: str
    atol: float
    rtol: float
    injected: bool
    images: int
    faulty_images: list[int]
    max_abs_diff: float
    tiers: list[TierDeviation]

    @property
    def expected(self) -> list[int]:
        return INJECTED_IMAGES if self.injected else []


@dataclass(frozen=True)
class Cases:
    """What is compared. golden: (n, ...) memory-mapped; inputs: of positions [a, b); rows: (n,) rows of the golden."""

    golden: NDArray[np.float32]
    inputs: Callable[[int, int], NDArray[np.float32]]
    rows: NDArray[np.int64]


def verify_golden(
    path: Path,
    target: str,
    engine: str,
    tolerance: Tolerance,
    *,
    inject: bool = False,
    batch: int = 64,
    threads: int = 1,
    progress: Callable[[int], AbstractContextManager[Advance]] | None = None,
) -> Verification:
    """Runs ``target`` ("model", "attention", "attention:N", "block:N") in the engine and compares with the golden.

    ``inject`` puts the fixed wrong values into the golden first; the images in ``INJECTED_IMAGES`` must then be found.
    Memory: the engine and a few batches. Raises UsageError for an unknown engine or a module that was not recorded,
    StaleArtefact for changed files, EngineError when the engine fails.
    """
    check_engine(engine, "fp32")
    with _golden_of(path) as golden:
        cases = cases_of(golden, target)
        if inject:
            check_images(len(cases.rows))
        request = plain_engine(golden.run, target, threads=threads)
        feed, output = ends_of(request.onnx)
        faulty, largest, atols = [], [], []
        with (
            open_engine(engine, request) as runner,
            progress(len(cases.rows)) if progress else no_progress() as advance,
        ):
            for start in range(0, len(cases.rows), batch):
                end = min(start + batch, len(cases.rows))
                wanted = injected(cases.golden[start:end], start) if inject else cases.golden[start:end]
                outputs = runner.run({feed: cases.inputs(start, end)})[output]
                deviation = Deviation(outputs, wanted)
                faulty.append(by_row(deviation.mismatch(tolerance.atol, tolerance.rtol)).any(axis=1))
                largest.append(deviation.max_abs())
                atols.append(deviation.smallest_atol(tolerance.rtol))
                advance(end - start)
            info = runner.info
        measured = (np.concatenate(faulty), np.concatenate(largest), np.concatenate(atols))
        return Verification(
            target=target,
            engine=engine,
            engine_hash=info.hash,
            deployment_id=info.deployment_id,
            atol=tolerance.atol,
            rtol=tolerance.rtol,
            injected=inject,
            images=len(cases.rows),
            faulty_images=np.flatnonzero(measured[0]).tolist(),
            max_abs_diff=float(measured[1].max()),
            tiers=_by_tier(golden, cases.rows, *measured),
        )


def cases_of(golden: Golden, target: str) -> Cases:
    """The subset's images where one was chosen, else all recorded ones."""
    subset = recorded_subset(golden)
    source, rows = (subset, subset.rows) if subset else (golden, np.arange(len(golden)))
    if target == "model":
        return Cases(source.array(LOGITS), lambda a, b: golden.split.batch(rows[a:b]), rows)
    name = module_name(golden.run.model, part_in_campaign(golden.run, target))
    hidden = source.array(golden.file(name, 0))
    return Cases(source.array(golden.file(name, 1)), lambda a, b: np.array(hidden[a:b]), rows)


def _by_tier(
    golden: Golden,
    rows: NDArray[np.int64],
    faulty: NDArray[np.bool_],
    largest: NDArray[np.float64],
    atols: NDArray[np.float64],
) -> list[TierDeviation]:
    """Correctly classified images only, as tiers are."""
    edges = recorded_edges(golden) or TierEdges.preset(4)
    tier_of = golden_tiers(golden, edges).tier_of[rows]
    tiers = []
    for tier, (low, high) in enumerate(zip((0.0, *edges.edges), edges.edges, strict=False)):
        of_tier = tier_of == tier
        worst = (float(largest[of_tier].max()), float(atols[of_tier].max())) if of_tier.any() else (None, None)
        tiers.append(TierDeviation(low, high, int(of_tier.sum()), int(faulty[of_tier].sum()), *worst))
    return tiers


@contextmanager
def _golden_of(path: Path) -> Iterator[Golden]:
    """A campaign's folder is only read; a model's gets the export, so it is locked."""
    if is_campaign(path):
        yield open_golden(path)
        return
    with working_in(path) as run:
        yield Golden(run)
