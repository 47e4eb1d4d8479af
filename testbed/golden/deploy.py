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
from testbed.core.folder.files import write_bytes
from testbed.core.site import SiteTable
from testbed.engines.backends import check_engine
from testbed.engines.batches import batches
from testbed.engines.runner import EngineRequest, Runner, open_engine
from testbed.export.parity import TierParity, parity_by_tier
from testbed.export.precision import Calibration
from testbed.golden.deployment import deployed_file, ends_of, plain_engine
from testbed.golden.recorded import Golden, working_in
from testbed.golden.recording import Advance, no_progress
from testbed.golden.tiers import golden_tiers, recorded_edges
from testbed.golden.verify import Cases, cases_of
from testbed.instrument.adopt.file import adopt
from testbed.instrument.cut.module import AttentionModule, cut_attention, with_outputs
from testbed.instrument.quantised import number_format_of
from testbed.instrument.shapes import input_name, input_shape, output_name
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import deployment_id


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


# ---- one attention module of an ONNX file of any origin

_IMAGES = 64
_SEED = 0


def deploy_module(
    file: Path,
    target: str,
    precision: str,
    *,
    engine: str = "ort-cpu",
    rtol: float = 1e-5,
    batch: int = 64,
    threads: int = 1,
    image_size: int | None = None,
    progress: Callable[[int], AbstractContextManager[Advance]] | None = None,
) -> Deployed:
    """Cuts ``target``, "attention" or "attention:N", out of an ONNX file, and writes it beside it. Its outputs are compared
    with what the whole file's engine holds there, of images of normal random numbers. image_size: see `adopt`.

    Raises UsageError for another target, a block that cannot be cut out and a precision that is not the file's own,
    EngineError when the engine cannot take the file.
    """
    check_engine(engine, "fp32")
    kind, _, number = target.partition(":")
    if kind != "attention" or not (number.isdecimal() or target == "attention"):
        raise UsageError(
            f"{file} is an ONNX file, which is deployed as it is; what is exported of it is one attention module: --target"
            " attention or attention:N"
        )
    whole = catalogue(adopt(file, image_size=image_size).plain)
    module = cut_attention(whole, str(file), int(number) if number else None)
    own = _precision(module)
    if precision not in ("fp32", own):
        raise UsageError(f"{file} computes in {own}; a module of it is cut out as it is: leave --precision out")
    written = file.with_name(f"{file.stem}.{target.replace(':', '.')}.onnx")
    write_bytes(written, module.plain)
    shape = input_shape(whole.proto)
    images = np.random.default_rng(_SEED).standard_normal((_IMAGES, *shape)).astype(np.float32)
    extended = with_outputs(whole.proto, (module.input, module.output)).SerializeToString(deterministic=True)
    name, given, wanted = input_name(extended), [], []
    with (
        open_engine(engine, _request_of(extended, own, batch, threads)) as runner,
        progress(_IMAGES) if progress else no_progress() as advance,
    ):
        for rows, padded in batches(_IMAGES, batch):
            values = runner.run({name: images[padded]})
            given.append(values[module.input][: len(rows)].astype(np.float32))
            wanted.append(values[module.output][: len(rows)].astype(np.float32))
            advance(len(rows))
    inputs, outputs = np.concatenate(given), []
    with open_engine(engine, _request_of(module.plain, own, batch, threads)) as runner:
        for rows, padded in batches(_IMAGES, batch):
            values = runner.run({input_name(module.plain): inputs[padded]})
            outputs.append(values[output_name(module.plain)][: len(rows)])
        info = runner.info
    parity = parity_by_tier(np.concatenate(outputs), np.concatenate(wanted), {"all": np.arange(_IMAGES)}, rtol, False)
    return Deployed(
        file=str(written),
        target=target,
        engine=engine,
        engine_hash=info.hash,
        deployment_id=info.deployment_id,
        precision=own,
        options=dict(info.options),
        calibration=None,
        rtol=rtol,
        images=_IMAGES,
        parity=parity,
    )


def _precision(module: AttentionModule) -> str:
    """The precision that the module computes in, as engines are asked for it."""
    table = SiteTable("attention", "", "", module.catalogue.recognised or module.catalogue.others)
    computes, precisions = number_format_of(table)
    return precisions[0] if precisions else computes


def _request_of(plain: bytes, precision: str, batch: int, threads: int) -> EngineRequest:
    return EngineRequest.of_bytes(plain, deployment_id(plain), precision=precision, threads=threads, max_batch=batch)
