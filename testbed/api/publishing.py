"""Several runs at once from Python: what there is, rates in one table, figures for a paper."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Literal

import pandas as pd

from testbed.api.studies import RunSource, folder_of

Measure = Literal["sdc1", "outside", "nonfinite"]
Dimension = Literal["block", "bit", "kind", "bit_class", "tier", "site"]


def list_runs(folder: str | os.PathLike[str] = "runs") -> pd.DataFrame:
    """List the run folders in a folder, and those below it.

    Args:
        folder: Where to look.

    Returns:
        One row per run folder: run, kind, name, model, engine, precision, state, stage, faults, SDC-1 (`rate`, `low`,
        `high`) of the fault model `op`, created; and the problem of one that cannot be read.

    Raises:
        UsageError: Where there is no such folder.

    Example:
        ```py
        print(testbed.list_runs("runs")[["run", "engine", "faults", "rate"]])
        ```
    """
    from testbed.publish.listing import RunEntry, list_run_folders

    entries = [asdict(entry) for entry in list_run_folders(Path(folder))]
    return pd.DataFrame(entries, columns=[field.name for field in fields(RunEntry)])


def gather_rates(
    runs: Sequence[RunSource],
    by: str | Sequence[str] = (),
    *,
    ops: Sequence[str] = (),
    to: str | os.PathLike[str] | None = None,
    measures: Sequence[Measure] = ("sdc1", "outside", "nonfinite"),
) -> pd.DataFrame:
    """Gather the rates of several finished runs in one table: models, precisions, engines side by side.

    Args:
        runs: Finished runs, or their folders. Neither spec, model nor data are needed.
        by: One or several of "tier", "kind", "bit_class", "bit", "format", "block" and "site".
        ops: Only these fault models: "flip".
        to: Writes the table there, too, in the form of the file's ending: .csv, .json, .tex, .md, or .html, a page with
            figures.
        measures: Which rates are written.

    Returns:
        One row per run, fault model and value of `by`: which run, the fault model, faults, n, and for each of "sdc1",
        "outside" and "nonfinite" the rate with `_low` and `_high`, from 0 to 1, and the one-sided upper bounds `_high_95` and
        `_high_99`.

    Raises:
        UsageError: For a folder without a campaign, and for a dimension or fault model that there is none of.
        StaleArtefact: For a campaign that is not finished or was changed.

    Example:
        ```py
        rates = testbed.gather_rates(["runs/digits", "runs/digits-int8"], by="block", ops=["flip"])
        print(rates[["precision", "where", "block", "sdc1", "sdc1_low", "sdc1_high"]])
        ```
    """
    from testbed.publish.rates import checked_measures, read_rates

    folders = [folder_of(run) for run in runs]
    rates = read_rates(folders, by, ops)
    if to is not None:
        from testbed.publish.writing import write_rates

        write_rates(Path(to), folders, rates, checked_measures(measures))
    return rates.table


def draw_figures(
    runs: Sequence[RunSource],
    to: str | os.PathLike[str],
    *,
    by: Sequence[Dimension] = ("block", "bit", "kind"),
    measure: Measure = "sdc1",
    op: str = "flip",
    form: Literal["svg", "pdf", "png"] = "svg",
    style: Literal["paper", "wide", "slides"] = "paper",
) -> list[Path]:
    """Draw the rates of finished runs with their intervals for a paper: a figure per dimension, a series per run.

    Args:
        runs: Finished runs, or their folders.
        to: Folder for the figures.
        by: One figure each.
        measure: Which rate.
        op: Of this fault model.
        form: Kind of file. Letters are outlines in SVG, embedded TrueType in PDF.
        style: "paper" is one column of two (3.5 inches), "wide" both, "slides" has large letters.

    Returns:
        Paths of the figures.

    Raises:
        UsageError: For what is not known, and where nothing is to be drawn.
        StaleArtefact: For a campaign that is not finished or was changed.

    Example:
        ```py
        testbed.draw_figures(["runs/digits", "runs/digits-int8"], "figures", form="pdf")
        ```
    """
    from testbed.publish.figures import write_figures

    folders = [folder_of(run) for run in runs]
    return write_figures(folders, Path(to), by=by, measure=measure, op=op, form=form, style=style)
