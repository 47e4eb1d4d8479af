"""A target as a deployable engine in one precision, and how far it is from the reference golden, tier by tier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from testbed.analysis.outputs.confidence import TierEdges
from testbed.core.errors import UsageError
from testbed.engines.backends import check_engine
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.export.parity import TierParity, parity_by_tier
from testbed.export.precision import Calibration
from testbed.golden.deployment import deployed_file, ends_of, plain_engine
from testbed.golden.recorded import Golden, working_in
from testbed.golden.recording import Advance, no_progress
from testbed.golden.tiers import golden_tiers, recorded_edges
from testbed.golden.verify import Cases, cases_of


@dataclass(frozen=True)
class Deployed:
    """``parity``: one record per tier of correctly classified images, then one for all compared images."""

    file: str
    target: str
    engine: str
    engine_hash: str
    deployment_id: str
    precision: str
    options: Mapping[str, JsonValue]
    calibration: dict[str, JsonValue] | None
    rtol: float
    images: int
    parity: list[TierParity]


def deploy(
    path: Path,
    target: str,
    precision: str,
    *,
    engine: str = "ort-cpu",
    rtol: float = 1e-5,
    calibration: Calibration | None = None,
    batch: int = 64,
    threads: int = 1,
    progress: Callable[[int], AbstractContextManager[Advance]] | None = None,
) -> Deployed:
    """Exports ``target`` of the model in run folder ``path`` in ``precision``, runs it over the images of the subset (or
    all recorded ones) and compares with the reference golden.

    Raises UsageError for an unknown engine, precision or target, or a module without golden; EngineError when the engine
    cannot take the file (which is written all the same).
    """
    check_engine(engine, "fp32")
    with working_in(path) as run:
        golden = Golden(run)
        cases = cases_of(golden, target)
        request = plain_engine(run, target, precision=precision, calibration=calibration, threads=threads)
        try:
            check_engine(engine, precision)
        except UsageError as error:
            raise UsageError(f"{deployed_file(run, target, precision)} is written, but {error}") from error
        with open_engine(engine, request) as runner:
            outputs = _outputs(runner, request, cases, batch, progress)
            info = runner.info
        stage = run.folder.manifest["stages"].get(f"export.{target}.{precision}", {})
        return Deployed(
            file=str(deployed_file(run, target, precision)),
            target=target,
            engine=engine,
            engine_hash=info.hash,
            deployment_id=info.deployment_id,
            precision=precision,
            options=dict(info.options),
            calibration=stage.get("inputs", {}).get("calibration"),
            rtol=rtol,
            images=len(cases.rows),
            parity=_parity(golden, cases, outputs, rtol, target == "model"),
        )


def _outputs(
    runner: Runner,
    request: EngineRequest,
    cases: Cases,
    batch: int,
    progress: Callable[[int], AbstractContextManager[Advance]] | None,
) -> NDArray[np.float32]:
    feed, output = ends_of(request.onnx)
    parts = []
    with progress(len(cases.rows)) if progress else no_progress() as advance:
        for start in range(0, len(cases.rows), batch):
            end = min(start + batch, len(cases.rows))
            parts.append(runner.run({feed: cases.inputs(start, end)})[output])
            advance(end - start)
    return np.concatenate(parts)


def _parity(
    golden: Golden, cases: Cases, outputs: NDArray[np.float32], rtol: float, has_classes: bool
) -> list[TierParity]:
    edges = recorded_edges(golden) or TierEdges.preset(4)
    tier_of = golden_tiers(golden, edges).tier_of[cases.rows]
    tiers = {edges.name(tier): np.flatnonzero(tier_of == tier) for tier in range(len(edges))}
    tiers["all"] = np.arange(len(cases.rows))
    return parity_by_tier(outputs, cases.golden, tiers, rtol, has_classes)
