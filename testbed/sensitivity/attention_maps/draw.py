"""Figures of attention: heads, layers, rollout over the image, likeness of positions, distances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from testbed.core.words.text import drawn
from testbed.sensitivity.attention_maps.distance import HeadDistance
from testbed.sensitivity.attention_maps.gather import ImageAttention

_WEIGHTS = colormaps["viridis"].with_extremes(bad="0.6")  # grey: not a number
_SIGNED = colormaps["RdBu_r"].with_extremes(bad="0.6")
_MOST_COLUMNS = 6


def overlay_figure(picture: NDArray[np.float32], relevance: NDArray[np.float64], title: str) -> Figure:
    """The image, the map stretched over its extent, and both. picture: (S, S) or (S, S, 3) in [0, 1]; relevance:
    (grid, grid)."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    figure.suptitle(drawn(title))
    side = len(picture)
    extent = (-0.5, side - 0.5, side - 0.5, -0.5)
    for axes, name in zip(figure.subplots(1, 3), ("image", "rollout", "overlay"), strict=True):
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
        if name != "rollout":
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        if name != "image":
            alpha = 0.55 if name == "overlay" else 1.0
            shown = axes.imshow(relevance, cmap=_WEIGHTS, extent=extent, alpha=alpha, interpolation="bilinear")
            if name == "rollout":
                figure.colorbar(shown, ax=axes, shrink=0.8)
    return figure


def maps_figure(maps: Mapping[str, NDArray], title: str, *, signed: bool = False) -> Figure:
    """Matrices side by side with one colour scale. signed: its middle is 0."""
    columns = min(_MOST_COLUMNS, len(maps))
    rows = math.ceil(len(maps) / columns)
    figure = Figure(figsize=(2.3 * columns + 0.9, 2.4 * rows + 0.5), layout="constrained")
    figure.suptitle(drawn(title))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    low, high = _limits(list(maps.values()), signed)
    for axes in panels[len(maps) :]:
        axes.remove()
    used: list[Axes] = list(panels[: len(maps)])
    for axes, (name, values) in zip(used, maps.items(), strict=True):
        _matrix(axes, values, (low, high), signed)
        axes.set_title(drawn(name), fontsize=8)
    figure.colorbar(used[0].images[0], ax=used, shrink=0.8)
    return figure


def heads_figure(attention: ImageAttention, title: str) -> Figure:
    """Every head's map of the last block that attends, and their mean."""
    last = attention.last
    maps = {f"head {head}": values for head, values in enumerate(last.maps)} | {"mean": last.mean}
    return maps_figure(maps, title, signed=last.mix is not None)


def layers_figure(attention: ImageAttention, title: str) -> Figure:
    """The mean map of every block."""
    maps = {f"block {block.block}": block.mean for block in attention.blocks}
    return maps_figure(maps, title, signed=attention.last.mix is not None)


def differential_figure(attention: ImageAttention, title: str) -> Figure | None:
    """The two maps of every head of the last block, and their difference; None for softmax attention."""
    last = attention.last
    if last.first is None or last.second is None:
        return None
    maps: dict[str, NDArray] = {}
    for head, (first, second, both) in enumerate(zip(last.first, last.second, last.maps, strict=True)):
        maps |= {f"head {head}, first": first, f"head {head}, second": second, f"head {head}, difference": both}
    return maps_figure(maps, f"{title}, lambda {last.mix:.3f}", signed=True)


def positions_figure(similarity: NDArray[np.float64], title: str) -> Figure:
    """A map for each position, where it stands in the image. similarity: (P, P) cosines."""
    grid = math.isqrt(len(similarity))
    side = min(0.55 * grid, 9) + 1
    figure = Figure(figsize=(side + 0.8, side + 0.4), layout="constrained")
    figure.suptitle(drawn(title))
    panels = figure.subplots(grid, grid, squeeze=False).ravel()
    for axes, row in zip(panels, similarity, strict=True):
        _matrix(axes, row.reshape(grid, grid), (-1, 1), signed=True)
    figure.colorbar(panels[0].images[0], ax=list(panels), shrink=0.8, label="cosine similarity")
    return figure


def distances_figure(distances: Sequence[HeadDistance], title: str) -> Figure:
    """Attention distance of every head with its interval, by block."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    mean = np.array([record.mean_px for record in distances])
    low, high = (np.array([getattr(record, end) for record in distances], np.float64) for end in ("low_px", "high_px"))
    bars = np.nan_to_num(np.stack([mean - low, high - mean]))
    axes.errorbar([record.block for record in distances], mean, bars, fmt="o", markersize=4, elinewidth=0.8)
    axes.set(title=drawn(title), xlabel="block", ylabel="attention distance (px)", ylim=(0, None))
    axes.set_xticks(sorted({record.block for record in distances}))
    axes.grid(alpha=0.3)
    return figure


def faulty_figure(golden: ImageAttention, faulty: ImageAttention, title: str) -> Figure:
    """Three rows, golden, faulty and their difference: the mean map of every block, and the rollout."""
    columns = [f"block {block.block}" for block in golden.blocks] + ["rollout"]
    rows: dict[str, list[NDArray]] = {
        name: [*(block.mean for block in attention.blocks), attention.rollout]
        for name, attention in (("golden", golden), ("faulty", faulty))
    }
    with np.errstate(invalid="ignore"):
        rows["difference"] = [after - before for before, after in zip(rows["golden"], rows["faulty"], strict=True)]
    figure = Figure(figsize=(1.9 * len(columns) + 1.2, 6.2), layout="constrained")
    figure.suptitle(drawn(title))
    panels = figure.subplots(3, len(columns), squeeze=False)
    for line, (name, maps) in zip(panels, rows.items(), strict=True):
        for column, (axes, values) in enumerate(zip(line, maps, strict=True)):
            signed = name == "difference"
            pair = [values] if signed else [rows["golden"][column], rows["faulty"][column]]
            _matrix(axes, values, _limits(pair, signed), signed)
            figure.colorbar(axes.images[0], ax=axes, shrink=0.7).ax.tick_params(labelsize=6)
            if name == "golden":
                axes.set_title(columns[column], fontsize=8)
            if not column:
                axes.set_ylabel(name, fontsize=9)
    return figure


def _matrix(axes: Axes, values: NDArray, limits: tuple[float, float], signed: bool) -> None:
    axes.imshow(
        np.ma.masked_invalid(values),
        cmap=_SIGNED if signed else _WEIGHTS,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    axes.set(xticks=[], yticks=[])


def _limits(maps: Sequence[NDArray], signed: bool) -> tuple[float, float]:
    """The colour scale of some matrices, whatever in them is not finite."""
    values = np.concatenate([np.asarray(values, np.float64)[np.isfinite(values)] for values in maps])
    if not len(values):
        return (-1.0, 1.0) if signed else (0.0, 1.0)
    if signed:
        most = float(np.abs(values).max()) or 1.0
        return -most, most
    return min(0.0, float(values.min())), float(values.max()) or 1.0
