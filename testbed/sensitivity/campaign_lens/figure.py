"""The fault lens over a campaign as a picture: how deep faults go, what becomes of them, and whether the rank tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from testbed.core.words.text import drawn
from testbed.sensitivity.campaign_lens.record import LensEstimate, LensModel, LensRecord

_SHARES = {"absorbed": "tab:blue", "taken_over": "tab:red", "repaired": "tab:green"}


def lens_figure(record: LensRecord) -> Figure:
    """A row of panels for each fault model."""
    models = record.models
    figure = Figure(figsize=(16.5, 4.4 * len(models)), layout="constrained")
    figure.suptitle(drawn(f"fault lens over {record.name}, {100 * record.confidence:g} % intervals"))
    panels: Any = figure.subplots(len(models), 3, squeeze=False)
    for row, model in zip(panels, models, strict=True):
        _depths(row[0], model, len(record.states) - 1)
        _shares(row[1], model)
        _bands(row[2], model)
    return figure


def _depths(axes: Axes, model: LensModel, blocks: int) -> None:
    """Share absorbed by depth, a line per class of bits; what a line lacks to 100 % is never absorbed."""
    for group in [*model.by("all"), *model.by("bit_class")]:
        points = list(group.within)
        last = points[-1]
        depths = [point.depth for point in points] + [max(last.depth, blocks)]
        values, errors = _with_errors([point.share for point in (*points, last)])
        label = "all" if group.value is None else str(group.value)
        axes.errorbar(
            depths, values, errors, fmt="o-", label=f"{label}, n = {group.n}", markersize=3, capsize=2, elinewidth=0.8
        )
    axes.set(
        title=drawn(f"{model.name}: absorbed by depth"),
        xlabel="blocks after the fault's own",
        ylabel="share of faults (%)",
    )
    axes.set_ylim(0, 105)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="lower right")


def _shares(axes: Axes, model: LensModel) -> None:
    """What becomes of faults, by kind of site."""
    groups = model.by("kind")
    places = np.arange(len(groups))
    for number, (name, colour) in enumerate(_SHARES.items()):
        values, errors = _with_errors([getattr(group, name) for group in groups])
        at = places + 0.2 * (number - 1)
        axes.errorbar(at, values, errors, fmt="o", color=colour, label=name.replace("_", " "), markersize=3, capsize=2)
    axes.set_xticks(
        places, [f"{group.value} ({group.n})" for group in groups], rotation=60, ha="right", fontsize="x-small"
    )
    axes.set(title=drawn(f"{model.name}: by kind of site (n)"), ylabel="share of faults (%)")
    axes.set_ylim(0, 105)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize="x-small")


def _bands(axes: Axes, model: LensModel) -> None:
    """SDC-1 rate by rank of the true class at the injected block."""
    bands = [band for band in model.bands if band.bit_class is None]
    names = [f"{band.low}" if band.low == band.high else f"{band.low}-{band.high}" for band in bands]
    for event, colour in (("sdc1", "tab:red"), ("outside", "tab:orange")):
        values, errors = _with_errors([getattr(band, event) for band in bands])
        axes.errorbar(
            np.arange(len(bands)), values, errors, fmt="o", color=colour, label=event, markersize=4, capsize=3
        )
    axes.set_xticks(
        np.arange(len(bands)), [f"{name}\nn = {band.sdc1.n}" for name, band in zip(names, bands, strict=True)]
    )
    axes.set(
        title=drawn(f"{model.name}: rate by rank of the true class"),
        xlabel="rank without the fault, at the injected block",
    )
    axes.set_ylabel("rate (%)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize="x-small")


def _with_errors(estimates: Sequence[LensEstimate]) -> tuple[Any, Any]:
    """Values in per cent, and their distances from both limits."""
    values, low, high = (100 * np.array([getattr(e, end) for e in estimates]) for end in ("value", "low", "high"))
    return values, np.maximum([values - low, high - values], 0)
