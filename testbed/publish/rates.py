"""Rates of finished campaigns with their intervals, several runs in one table. Neither spec, model nor data are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from testbed.campaign.files import PLAN, RESULTS, Files
from testbed.campaign.folder.claim import recorded_spec
from testbed.campaign.summary.rate_table import checked_dimensions, measure_table
from testbed.campaign.summary.summarise import read_summary
from testbed.campaign.summary.tally import MEASURES
from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.core.site import SiteTable
from testbed.core.words.nearest import unknown

RUN_COLUMNS = ("run", "name", "model", "data", "engine", "precision")


@dataclass(frozen=True, eq=False)
class RunRates:
    """Rates of several runs.

    Attributes:
        by: What they are told apart by, "format" with "bit".
        table: One row per run, fault model and value of ``by``: the columns that say which run, those of `measure_table`.
        confidence: Of each run's intervals, by its folder.
    """

    by: tuple[str, ...]
    table: pd.DataFrame
    confidence: Mapping[str, float]


def read_rates(paths: Sequence[Path], by: Sequence[str] | str = (), ops: Sequence[str] = ()) -> RunRates:
    """Read the rates of every run.

    ops: only these fault models, as tables name them: "flip". Raises UsageError for a folder without a campaign, one named
    twice, and for a dimension or fault model that there is none of; StaleArtefact for a campaign that is not finished or
    was changed.
    """
    dimensions = checked_dimensions(by)
    folders = list(dict.fromkeys(path.resolve() for path in paths))
    if not folders:
        raise UsageError("name the folder of a finished campaign, or of several")
    if len(folders) < len(paths):
        raise UsageError("a run folder is named twice; name each run once")
    confidence, tables = {}, []
    for path in paths:
        table, confidence[str(path)] = _of_run(path, dimensions)
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    known = list(dict.fromkeys(whole.op))
    if strange := [op for op in ops if op not in known]:
        raise UsageError(unknown("fault model", strange[0], known))
    if ops:
        whole = whole[whole.op.isin(ops)].reset_index(drop=True)
    return RunRates(dimensions, whole, confidence)


def _of_run(path: Path, dimensions: Sequence[str]) -> tuple[pd.DataFrame, float]:
    summary = read_summary(path)
    folder = RunFolder.existing(path)
    spec = recorded_spec(folder)
    for file in (PLAN, RESULTS):
        folder.verify_file(file)
    formats: dict[str, dict[str, str]] = {}
    for target in spec.targets:
        sites = Files(target).sites
        folder.verify_file(sites)
        formats[target] = {site.name: site.format_name for site in SiteTable.load(folder / sites)}
    table = measure_table(folder / RESULTS, folder / PLAN, formats, spec.confidence, dimensions)
    described = (
        str(path),
        summary.name,
        summary.model.preset,
        summary.data.name,
        summary.engine.backend,
        summary.engine.precision,
    )
    for at, (column, value) in enumerate(zip(RUN_COLUMNS, described, strict=True)):
        table.insert(at, column, value)
    return table, spec.confidence


def run_labels(table: pd.DataFrame) -> dict[str, str]:
    """Labels of runs by folder: what tells each run from the others in few words: "openvino fp32"."""
    runs = table[list(RUN_COLUMNS)].drop_duplicates("run")
    names = [c for c in ("model", "data", "engine", "precision") if runs[c].nunique() > 1]
    labels = runs[names].agg(" ".join, axis=1) if names else runs.run.map(lambda run: Path(run).name)
    if labels.nunique() < len(runs):
        labels = runs.run.map(lambda run: Path(run).name)
    if labels.nunique() < len(runs):
        labels = runs.run
    return dict(zip(runs.run, labels, strict=True))


def checked_measures(measures: Sequence[str]) -> tuple[str, ...]:
    """Those asked for, or all. Raises UsageError for one that there is not."""
    for measure in measures:
        if measure not in MEASURES:
            raise UsageError(unknown("measure", measure, MEASURES))
    return tuple(measures) or MEASURES
