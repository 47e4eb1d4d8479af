"""A paired comparison of a plain and a protected campaign as files: the whole record, its tables, and two figures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from testbed.compare.record import ComparedRate, ComparePart
from testbed.core.folder.files import write_bytes, write_text
from testbed.core.json_types import json_ready
from testbed.core.words.text import drawn
from testbed.protect.paired.record import EventChange, EventName, ProtectedGroup, ProtectionComparison
from testbed.publish.figures import COLOURS, MARKERS, MEASURE_NAMES, STYLES, FigureStyle, figure_settings

_SERIES = (("before", -0.15), ("after", 0.15))
EVENTS: tuple[EventName, ...] = ("sdc1", "outside")


def write_comparison(compared: ProtectionComparison, to: Path) -> list[Path]:
    """Write the comparison in the folder ``to``, made where it is missing; the paths that were written.

    ``comparison.json``: all of it. ``groups.csv``, ``affected.csv``, ``checkers.csv``, ``new-sdc.csv`` and, where images were
    run again, ``second-runs.csv``: a row per record.
    ``removed-sdc1.svg``, ``removed-outside.svg``: rates before and after by kind of site, with intervals; none of an event that
    no fault had before or after.
    """
    to.mkdir(parents=True, exist_ok=True)
    written = [to / "comparison.json"]
    write_text(written[0], json.dumps(json_ready(compared.to_json()), indent=1, allow_nan=False) + "\n")
    tables: dict[str, Sequence[ComparePart]] = {
        "groups": compared.groups,
        "affected": compared.affected,
        "checkers": compared.checkers,
        "new-sdc": compared.new_sdc,
    }
    if compared.second_runs:
        tables["second-runs"] = compared.second_runs
    for name, records in tables.items():
        written.append(to / f"{name}.csv")
        write_text(written[-1], comparison_table(records).to_csv(index=False))
    for event in EVENTS:
        if groups := _drawn_groups(compared, event):
            written.append(to / f"removed-{event}.svg")
            write_bytes(written[-1], _figure_bytes(groups, event, STYLES["paper"]))
    return written


def comparison_table(records: Sequence[ComparePart]) -> pd.DataFrame:
    """A row per record, in which a value inside another is named by both: "sdc1.before.rate"."""
    return pd.json_normalize([record.to_json() for record in records])


def change_of(group: ProtectedGroup, event: EventName) -> EventChange | None:
    """What protection changed of an event; None of SDC-1 without classes."""
    return group.sdc1 if event == "sdc1" else group.outside


def _drawn_groups(compared: ProtectionComparison, event: EventName) -> list[tuple[ProtectedGroup, EventChange]]:
    """Groups by kind of site, of the fault models that have the event at all."""
    models = {(group.where, group.op) for group in compared.groups if _happens(change_of(group, event))}
    groups = [(group, change_of(group, event)) for group in compared.groups if group.by == "kind"]
    return [(group, change) for group, change in groups if change is not None and (group.where, group.op) in models]


def _happens(change: EventChange | None) -> bool:
    return change is not None and change.before.rate + change.after.rate > 0


def _figure_bytes(groups: Sequence[tuple[ProtectedGroup, EventChange]], event: str, style: FigureStyle) -> bytes:
    with mpl.rc_context(figure_settings(style)):
        figure, made = _figure(groups, event, style), io.BytesIO()
        figure.savefig(made, format="svg", metadata={"Date": None})
    return made.getvalue()


def _figure(groups: Sequence[tuple[ProtectedGroup, EventChange]], event: str, style: FigureStyle) -> Figure:
    panels = list(dict.fromkeys((group.where, group.op) for group, _ in groups))
    sizes = [sum((group.where, group.op) == panel for group, _ in groups) for panel in panels]
    heights = [style.line * (1.3 * size + 3) for size in sizes]
    figure = Figure(figsize=(style.width, sum(heights) + 2.5 * style.line))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        _panel(axis, [entry for entry in groups if (entry[0].where, entry[0].op) == panel])
        axis.set_title(f"{panel[1]} in {'activations' if panel[0] == 'activation' else 'weights'}")
        axis.set_xlabel(f"{MEASURE_NAMES[event]} (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return figure


def _panel(axis: Any, groups: Sequence[tuple[ProtectedGroup, EventChange]]) -> None:
    for number, (name, shift) in enumerate(_SERIES):
        rates: list[ComparedRate] = [getattr(change, name) for _, change in groups]
        x = 100 * np.array([rate.rate for rate in rates])
        ends = 100 * np.array([[rate.low for rate in rates], [rate.high for rate in rates]])
        errors = np.maximum(0, np.stack([x - ends[0], ends[1] - x]))
        places = -(np.arange(len(groups)) + shift)
        axis.errorbar(
            x, places, None, errors, fmt=MARKERS[number], color=COLOURS[number], label=name, elinewidth=0.8, capsize=0
        )
    axis.set_xlim(left=0)
    axis.set_ylim(0.5 - len(groups), 0.5)
    axis.set_yticks(-np.arange(len(groups), dtype=float), [drawn(str(group.value)) for group, _ in groups])
