"""Tolerance sweeps: what every absolute and relative tolerance would detect and alarm at, from a campaign's stored rows.

A row stores the smallest atol that masks it for each rtol of the spec's grid, so no inference is run again. Fault-free
engines are measured once (`testbed.sweep.noise`), and so is the link of the first attention module to the prediction
(`testbed.sweep.link`); both are kept in the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from testbed.analysis.outputs.confidence import TierEdges
from testbed.campaign.files import PLAN, RESULTS, TIERS
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.record import ToleranceRecord
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import atomic_path, sha256_json, write_text
from testbed.core.folder.forms import Form, read_form
from testbed.core.folder.runfolder import RunFolder
from testbed.golden.reference import LOGITS
from testbed.sweep.curves import Curves, ToleranceGrid
from testbed.sweep.exact import KEY, evaluate_exactly, read_exact, straddling, with_exact
from testbed.sweep.exact import STAGE as EXACT_STAGE
from testbed.sweep.floor import Floor
from testbed.sweep.link import LINK, STAGE, measure_link
from testbed.sweep.linked import Followed, describe_link, read_link
from testbed.sweep.noise import COMMAND, NoiseEngines, ProgressOpener
from testbed.sweep.noise_sources import default_sources, named_sources, own_source
from testbed.sweep.points import SourceAlarms
from testbed.sweep.record import NoiseSource, SweepRecord, SweptGoldens, SweptRtols, TierCurves, TierEdge
from testbed.sweep.thresholds import Thresholds, read_thresholds

SWEEP = "sweep.json"
_VERSION = 1  # of what is written there
DEFINITIONS = {
    "flagged": "a row is flagged at (atol, rtol) iff the smallest atol that masks it at that rtol is above atol; an output"
    " with NaN or infinity is flagged at any tolerance",
    "sdc1": "another top-1 than the engine golden's, whatever the tolerance; outputs that the campaign counts as DUE are"
    " none: something else has noticed them",
    "any": "not bit-identical to the engine golden, or no output at all; a crash or a hang counts as detected, by itself",
    "rates": "weigh by the population of the stratum; images under one fault are a cluster; no rate mixes fault models",
    "undecided": "rows of incremental evaluation whose error bound straddles the tolerance: the interval's ends have them"
    " unflagged and flagged; --exact evaluates those of the grid exactly",
    "false_alarm_upper": "upper bound of the false-alarm rate of the smallest atol without one, 1 - (1 - confidence)^(1/n),"
    " about 3/n: for images that come from where these n did",
    "auc": "area under the ROC of the rows against one fault-free engine's images; the interval is about the faults, the"
    " images are taken as given",
}
_OF_ALARMS = {
    "detected": "an alarm of the engine's own checks, whatever the output: it needs no tolerance, and is part of no event",
}


@dataclass(frozen=True)
class SweepRequest:
    """What a sweep is asked to do. atol, rtol: None for the default grids. noise: names of fault-free engines, None for
    the default ones. images: of each tier they are measured on, at least the campaign's. link, limit: follow (so many)
    faults of the first attention module. exact: evaluate rows exactly whose error bound straddles a tolerance of the
    grid."""

    atol: tuple[float, ...] | None = None
    rtol: tuple[float, ...] | None = None
    detect: float = 0.99
    noise: tuple[str, ...] | None = None
    images: int | None = None
    link: bool = False
    limit: int | None = None
    exact: bool = False


class SweepInputs(Form):
    """What a sweep is made from: hashes of files, the engines by name, and what was asked for."""

    results: str
    floors: list[str]
    noise: str
    link: str | None
    exact: dict[str, str] | None
    atol: list[float] | None
    rtol: list[float] | None
    detect: float
    version: int


def sweep_campaign(path: Path, request: SweepRequest, progress: ProgressOpener) -> SweepRecord:
    """The sweep, also written to ``sweep.json`` of the run folder.

    Raises UsageError for a folder without a campaign and for tolerances that the rows do not tell about, StaleArtefact
    for a campaign that is not finished or whose files were changed.
    """
    workplace = Workplace.at(path)
    folder, spec = workplace.folder, workplace.spec
    rtols = swept_rtols(spec, request.rtol)
    for file in (TIERS, PLAN, RESULTS):
        folder.verify_file(file)
    try:
        with folder.locked():
            floors, notes = _floors(workplace, request, progress)
            if request.link:
                measure_link(workplace, request.limit, progress)
            kept = read_link(workplace, rtols)
            main = spec.tolerance.rtol if spec.tolerance.rtol in rtols else rtols[0]
            grid = ToleranceGrid(request.atol, rtols, main, spec.tolerance.per_tier(len(spec.tiers.edges)))

            exact = read_exact(workplace)
            if request.exact:
                exact = evaluate_exactly(workplace, _straddling(workplace, grid, floors), progress)

            def build() -> None:
                models = [with_exact(rows, exact, spec.tolerance.rtol_grid) for rows in _models(workplace, grid)]
                swept = _swept(workplace, request, grid, models, floors, notes, kept)
                write_text(folder / SWEEP, json.dumps(swept.to_json(), allow_nan=False))  # many numbers: no indentation

            folder.stage("sweep", _made_from(folder, request, floors, kept).to_json(), [SWEEP], build, command=COMMAND)
    finally:
        workplace.close()
    return _read(folder / SWEEP)


def read_sweep(folder: RunFolder) -> SweepRecord | None:
    """The last sweep of these very results, for the report; None where there is none. Raises StaleArtefact if edited."""
    record = folder.manifest["stages"].get("sweep")
    if record is None or record["inputs"].get("results") != folder.output_hash("execute", RESULTS):
        return None
    folder.verify("sweep")
    return _read(folder / SWEEP)


def _read(path: Path) -> SweepRecord:
    return read_form(path, SweepRecord, "a sweep", f"run `{COMMAND} {path.parent}` again")


def undecided_rows(path: Path, atol: float, rtol: float) -> pd.DataFrame:
    """Rows whose stored threshold cannot tell whether this tolerance flags them: fault_id, image_id, masking_atol,
    error_bound, for `Run.replay`, which evaluates exactly. Raises as `sweep_campaign` does."""
    workplace = Workplace.at(path)
    (wanted,) = swept_rtols(workplace.spec, (rtol,))
    parts = []
    for rows in read_thresholds(workplace.folder, workplace.spec.tolerance.rtol_grid, (wanted,)):
        which = rows.undecided(wanted, atol)
        frame = rows.rows.loc[which, ["fault_id", "image_id"]].astype({"image_id": str})
        parts.append(frame.assign(masking_atol=rows.atol[which, 0], error_bound=rows.error[which]))
    return pd.concat(parts, ignore_index=True)


def swept_rtols(spec: CampaignSpec, asked: Sequence[float] | None) -> tuple[float, ...]:
    """Those asked for, or all that rows store thresholds for. Raises UsageError for others, and where there are none."""
    grid = spec.tolerance.rtol_grid
    if not grid:
        raise UsageError(
            "there is nothing to sweep: rows store their thresholds for tolerance.rtol_grid, which is empty; name relative"
            " tolerances there, such as [0.0, 1e-5], and run the campaign in another folder"
        )
    for rtol in asked or ():
        if rtol not in grid:
            raise UsageError(
                f"rtol {rtol:g} cannot be swept: rows store their thresholds for tolerance.rtol_grid ="
                f" {', '.join(f'{value:g}' for value in grid)} only; choose of those"
            )
    return tuple(sorted(set(asked or grid)))


def _floors(workplace: Workplace, request: SweepRequest, progress: ProgressOpener) -> tuple[list[Floor], list[str]]:
    """The fault-free engines that were asked for, or the default ones and whatever was measured before; and notes."""
    engine = NoiseEngines(workplace)
    if request.noise is not None:
        return engine.measured(
            named_sources(request.noise, workplace.spec, workplace.batch), request.images, progress
        ), []
    sources, notes = default_sources(workplace.spec, workplace.batch)
    floors = []
    for source in sources:
        try:
            floors += engine.measured([source], request.images, progress)
        except TestbedError as error:
            if source == own_source(workplace.spec, workplace.batch):
                raise
            notes.append(f"{source} was not measured: {error}")
    known = {(floor.source, floor.target) for floor in floors}
    return floors + [floor for floor in engine.kept() if (floor.source, floor.target) not in known], notes


def _made_from(folder: RunFolder, request: SweepRequest, floors: Sequence[Floor], kept: Followed | None) -> SweepInputs:
    stages = folder.manifest["stages"]
    noise = {name: record["outputs"] for name, record in stages.items() if name.startswith("noise.")}
    return SweepInputs(
        results=folder.output_hash("execute", RESULTS),
        floors=[f"{floor.target} {floor.source}" for floor in floors],
        noise=sha256_json(noise),
        link=folder.output_hash(STAGE, LINK) if kept is not None else None,
        exact=stages[EXACT_STAGE]["outputs"] if EXACT_STAGE in stages else None,
        atol=None if request.atol is None else list(request.atol),
        rtol=None if request.rtol is None else list(request.rtol),
        detect=request.detect,
        version=_VERSION,
    )


def _models(workplace: Workplace, grid: ToleranceGrid) -> Iterator[Thresholds]:
    return read_thresholds(workplace.folder, workplace.spec.tolerance.rtol_grid, grid.rtols)


def _straddling(workplace: Workplace, grid: ToleranceGrid, floors: Sequence[Floor]) -> pd.DataFrame:
    """Rows that a tolerance of the grid, of whatever tier, cannot decide: target, fault_id, image_id."""
    parts = []
    for rows in _models(workplace, grid):
        curves = _curves(workplace, rows, floors, grid, 0.5)
        atols = [curves.all_atols(rtol) for rtol in grid.rtols]
        parts.append(rows.rows.loc[straddling(rows, atols), ["target", *KEY]].astype({"target": str, "image_id": str}))
    return pd.concat(parts, ignore_index=True)


def _curves(
    workplace: Workplace, rows: Thresholds, floors: Sequence[Floor], grid: ToleranceGrid, wanted: float
) -> Curves:
    spec = workplace.spec
    of_target = [floor for floor in floors if floor.target == rows.fault_model.target]
    return Curves(rows, of_target, spec.tolerance.rtol_grid, grid, spec.confidence, wanted)


def _swept(
    workplace: Workplace,
    request: SweepRequest,
    grid: ToleranceGrid,
    models: Sequence[Thresholds],
    floors: Sequence[Floor],
    notes: Sequence[str],
    kept: Followed | None,
) -> SweepRecord:
    spec = workplace.spec
    bounds = TierEdges(spec.tiers.edges).bounds
    tiers: list[TierCurves] = []
    alarms: dict[str, list[SourceAlarms]] = {}
    for rows in models:
        curves = _curves(workplace, rows, floors, grid, request.detect)
        tiers += curves.records()
        target = rows.fault_model.target
        alarms[target] = alarms.get(target) or list(curves.false_alarms())
    own = ToleranceRecord(atol=list(grid.own), rtol=spec.tolerance.rtol, rtol_grid=list(spec.tolerance.rtol_grid))
    return SweepRecord(
        name=spec.name,
        version=_VERSION,
        confidence=spec.confidence,
        wanted_detection=request.detect,
        tolerance=own,
        atol=None if grid.atol is None else list(grid.atol),
        rtol=SweptRtols(swept=list(grid.rtols), main=grid.main),
        tier_edges=[TierEdge(tier=tier, low=low, high=high) for tier, (low, high) in enumerate(bounds)],
        goldens=_goldens(spec),
        definitions=DEFINITIONS | (_OF_ALARMS if any(part.n_detected for part in tiers) else {}),
        sources=[_source(floor) for floor in floors],
        notes=list(notes),
        false_alarms=[record for records in alarms.values() for record in records],
        tiers=tiers,
        link=None if kept is None else describe_link(workplace, grid, models, kept, floors),
    )


def _source(floor: Floor) -> NoiseSource:
    return NoiseSource(target=floor.target, **dict(floor.engine), n=len(floor.tier), other_top1=floor.other_top1)


def _goldens(spec: CampaignSpec) -> SweptGoldens:
    """Which golden each kind of number rests on."""
    reference = "PyTorch, float32, of the original model"
    if spec.model.onnx is not None:
        reference = "the plain engine's own outputs, as there is no other model than the file"
    return SweptGoldens(
        false_alarm=f"the reference golden ({reference}), of {LOGITS}: what a detector would store",
        detection="the engine golden (the same engine and batch, without a fault), which the campaign's rows were judged"
        " against; a detector that stores the reference golden sees the fault-free difference of the two on top",
        link="the engine's own output of the module, without a fault",
    )


def grid_table(swept: SweepRecord) -> pd.DataFrame:
    """Every grid point of every fault model and tier as one row."""
    model = {"target", "where", "op", "pattern", "scope", "tier", "n_rows", "n_faults", "n_sdc1", "n_corrupted"}
    rows = [{**part.model_dump(include=model), **point.to_json()} for part in swept.tiers for point in part.grid]
    return pd.json_normalize(rows)


def write_grid(swept: SweepRecord, path: Path) -> None:
    """Write `grid_table` as .csv or .parquet, by the name's end."""
    table = grid_table(swept)
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)
