"""The files of the lens over a campaign: the record, its tables, a picture; in the campaign's folder or another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed.campaign.files import PLAN, RESULTS
from testbed.core.folder.figures import figure_bytes
from testbed.core.folder.files import csv_text, write_bytes, write_json, write_text
from testbed.core.folder.runfolder import RunFolder
from testbed.sensitivity.campaign_lens.figure import lens_figure
from testbed.sensitivity.campaign_lens.record import COMMAND, LENS, STAGE, LensEstimate, LensRecord, load_lens
from testbed.sensitivity.campaign_lens.study import (
    VERSION,
    CampaignLens,
    LensFault,
    LensSettings,
    ProgressOf,
    measure_lens,
)

FAULTS, GROUPS, FIGURE = "lens_faults.csv", "lens_groups.csv", "lens.svg"
LENS_FILES = (LENS, FAULTS, GROUPS, FIGURE)
"""Every file that the lens writes."""
_ESTIMATES = ("absorbed", "taken_over", "repaired", "mean_depth")


def lens_campaign(path: Path, settings: LensSettings, to: Path | None, progress: ProgressOf) -> LensRecord:
    """Look at a campaign's faults and write `LENS_FILES`: into ``to``, or into the campaign's folder, where its page shows
    them and the same question is not measured again. Raises as `measure_lens`, before anything is written."""
    if to is not None:
        lens = measure_lens(path, settings, progress)
        write_lens(to, lens)
        return lens.record
    folder = RunFolder.existing(path)
    recorded = folder.record(STAGE)
    if recorded is None or recorded.inputs != _made_from(folder, settings):
        lens = measure_lens(path, settings, progress)
        with folder.locked():
            folder.stage(
                STAGE, _made_from(folder, settings), LENS_FILES, lambda: write_lens(path, lens), command=COMMAND
            )
    folder.verify(STAGE)
    return load_lens(path / LENS)


def write_lens(folder: Path, lens: CampaignLens) -> None:
    """Write `LENS_FILES`, each whole or not at all."""
    record = lens.record
    write_text(folder / FAULTS, csv_text([_fault_row(fault, record.states) for fault in lens.faults]))
    write_text(folder / GROUPS, csv_text(list(group_rows(record))))
    write_bytes(folder / FIGURE, figure_bytes(lens_figure(record), "svg"))
    write_json(folder / LENS, record.to_json())


def group_rows(record: LensRecord) -> Iterator[dict[str, Any]]:
    """One row per fault model and group: every estimate with its limits."""
    for model in record.models:
        of_model = {name: getattr(model, name) for name in ("where", "op", "pattern")}
        for group in model.groups:
            row = of_model | {"by": group.by, "value": group.value, "n": group.n}
            for name in _ESTIMATES:
                row |= _columns(name, getattr(group, name))
            row |= _columns("absorbed_in_own_block", group.within[0].share)
            median = group.median_depth
            yield row | {"median_depth": median.value, "median_low": median.low, "median_high": median.high}


def _columns(name: str, estimate: LensEstimate | None) -> dict[str, float | None]:
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {name + end: None if estimate is None else getattr(estimate, field) for end, field in ends.items()}


def _fault_row(looked_at: LensFault, states: list[str]) -> dict[str, Any]:
    fault, path = looked_at.fault, looked_at.path
    names = {
        name: None if (state := getattr(path, name)) is None else states[state]
        for name in ("entry", "absorbed", "takes_over", "repaired")
    }
    return {
        "fault_id": fault.fault_id,
        "image_id": fault.image_id,
        "where": fault.where,
        "op": fault.op,
        "site": fault.site,
        "kind": looked_at.kind,
        "block": fault.block,
        "bit": fault.bit,
        "bit_class": looked_at.bit_class,
        "outcome": fault.stored_outcome,
        "weight": looked_at.weight,
        **names,
        "depth": path.depth,
    }


def _made_from(folder: RunFolder, settings: LensSettings) -> dict[str, Any]:
    hashes = {"results": folder.output_hash("execute", RESULTS), "plan": _plan_hash(folder)}
    return hashes | asdict(settings) | {"version": VERSION}


def _plan_hash(folder: RunFolder) -> str:
    stage = next(name for name, record in folder.stages.items() if PLAN in record.outputs)
    return folder.output_hash(stage, PLAN)
