"""Pictures of fuzziness: over the layers with both laws, over the epochs, and as an animation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from PIL import Image

from testbed.core.folder.files import atomic_path
from testbed.core.words.text import drawn
from testbed.sensitivity.fuzziness.fits import Fits
from testbed.sensitivity.fuzziness.log import EpochFuzziness

_DPI = 100
_SHOWN_FRAME_MS = 600
AxisLimits = tuple[float, float]
Spread = Mapping[str, float]


def rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(_DPI)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_png(path: Path, picture: Figure | Image.Image) -> None:
    image = rendered(picture) if isinstance(picture, Figure) else picture
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def layers_figure(
    layers: Mapping[str, float],
    fits: Fits,
    title: str,
    text: Sequence[str],
    *,
    spread: Spread | None = None,
    limits: AxisLimits | None = None,
) -> Figure:
    """Fuzziness against the layer, linear and logarithmic; first and last layer stand out, fits are dashed.

    ``text``: lines of the text box, the R^2 are added to them. ``spread``: +- of each layer. ``limits``: of the values, for
    pictures that are to be compared.
    """
    figure = Figure(figsize=(12, 4.5))
    figure.suptitle(drawn(title))
    margins = {"left": 0.06, "right": 0.98, "bottom": 0.17, "top": 0.86, "wspace": 0.17}
    linear, logarithmic, beside = figure.subplots(1, 3, width_ratios=(5, 5, 2), gridspec_kw=margins)
    for axes in (linear, logarithmic):
        _levels(axes, layers, spread)
    interior = np.array([x for x, name in enumerate(layers) if name.startswith("block.")], np.float64)
    fine = np.linspace(interior[0], interior[-1], 200) if len(interior) else interior
    if fits.exponential is not None:  # x counts blocks from 1, wherever the first of them stands in the picture
        linear.plot(fine, fits.exponential.at(fine - interior[0] + 1), "k--")
        linear.set_title("dashed: a exp(-b x) + c", fontsize="small", loc="right")
    if fits.separation is not None:
        logarithmic.plot(fine, fits.separation.at(fine - interior[0] + 1), "k--")
        logarithmic.set_title("dashed: law of separation", fontsize="small", loc="right")
    positive = [value for value in layers.values() if 0 < value < np.inf]
    if positive:
        _log_scale(logarithmic)
        low, high = limits or (min(positive), max(positive))
        logarithmic.set_ylim(low / 1.5, high * 1.5)
        linear.set_ylim(-0.05 * high, 1.1 * high)
    beside.axis("off")
    frame = {"boxstyle": "round", "facecolor": "white"}
    beside.text(0, 1, "\n".join([*map(drawn, text), *_r2_lines(fits)]), va="top", fontsize="small", bbox=frame)
    return figure


def epochs_figure(
    log: Sequence[EpochFuzziness], layers: Iterable[str], title: str, spread: Sequence[Spread] | None = None
) -> Figure:
    """Fuzziness against the epoch, a line per layer, from the first layer (dark) to the last (light)."""
    names = list(layers)
    figure, axes = _single(right=0.82)
    for name, colour in zip(names, colormaps["viridis"](np.linspace(0, 0.9, len(names))), strict=True):
        values = [row.layers[name] for row in log]
        _line(axes, log, values, [of_epoch[name] for of_epoch in spread] if spread else None, name, colour)
    if all(0 < row.layers[name] < np.inf for row in log for name in names):
        _log_scale(axes)
    axes.set(title=drawn(title), xlabel="epoch", ylabel="fuzziness D")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize="small")
    return figure


def accuracy_figure(log: Sequence[EpochFuzziness], title: str, spread: Sequence[Spread] | None = None) -> Figure:
    """Training and test accuracy (%) against the analysed epochs."""
    figure, axes = _single()
    for part, colour in (("train", "tab:blue"), ("test", "tab:orange")):
        key = f"{part}_accuracy"
        values = [100 * getattr(row, key) for row in log]
        _line(axes, log, values, [100 * of_epoch[key] for of_epoch in spread] if spread else None, part, colour)
    axes.set(title=drawn(title), xlabel="epoch", ylabel="accuracy (%)")
    axes.legend()
    return figure


def limits_of(log: Sequence[EpochFuzziness]) -> AxisLimits | None:
    """The smallest and largest positive fuzziness of all epochs; None where there is none."""
    values = [value for row in log for value in row.layers.values() if 0 < value < np.inf]
    return (min(values), max(values)) if values else None


def save_gif(path: Path, pictures: Sequence[Image.Image]) -> None:
    """One frame per picture, over and over; the last one stays longer."""
    frames = [picture.quantize(64) for picture in pictures]
    durations = [_SHOWN_FRAME_MS] * (len(frames) - 1) + [3 * _SHOWN_FRAME_MS]
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=2
        )


def _single(right: float = 0.97) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.5))
    return figure, figure.subplots(gridspec_kw={"left": 0.12, "right": right, "bottom": 0.13, "top": 0.9})


def _levels(axes: Axes, layers: Mapping[str, float], spread: Spread | None) -> None:
    names, values = list(layers), np.array(list(layers.values()))
    shown = np.where(np.isfinite(values), values, np.nan)
    x = np.arange(len(names))
    errors = None if spread is None else [spread[name] for name in names]
    axes.errorbar(x, shown, errors, color="tab:blue", marker="o", markersize=4, linewidth=1, capsize=3)
    for index, colour in ((0, "tab:red"), (len(names) - 1, "tab:green")):
        axes.plot(x[index], shown[index], "o", color=colour, markersize=9, zorder=3)
    axes.set_xticks(x, names, rotation=45, ha="right", fontsize="small")
    axes.set_title("fuzziness D", fontsize="small", loc="left")  # beside the axis there is room for the numbers only
    axes.grid(alpha=0.3)


def _line(
    axes: Axes,
    log: Sequence[EpochFuzziness],
    values: Sequence[float],
    errors: Sequence[float] | None,
    label: str,
    colour: object,
) -> None:
    epochs = [row.epoch for row in log]
    shown = np.where(np.isfinite(values), values, np.nan)
    axes.plot(epochs, shown, color=colour, marker=".", label=label)
    if errors is not None:
        axes.fill_between(epochs, shown - np.array(errors), shown + np.array(errors), color=colour, alpha=0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())  # 100, not 10^2
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))


def _r2_lines(fits: Fits) -> list[str]:
    named = {"exponential": fits.exponential, "separation": fits.separation}
    return [f"$R^2$ {name}: {fit.r2:.4f}" for name, fit in named.items() if fit is not None and fit.r2 is not None]
