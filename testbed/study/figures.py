"""Pictures of a study: the variants' test accuracies with intervals, and the curves of their trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from testbed.core.folder.figures import save_figure
from testbed.core.words.text import drawn
from testbed.study.results import StudyReport
from testbed.train.record import EpochRecord


def write_scores_picture(path: Path, report: StudyReport) -> None:
    """A point per variant with its interval, each seed beside it; published values where the setting is the published."""
    figure = Figure(figsize=(2.5 + 1.3 * len(report.variants), 4.5), layout="constrained")
    axes = figure.subplots()
    for x, variant in enumerate(report.variants):
        reach = [[100 * (variant.mean - variant.low)], [100 * (variant.high - variant.mean)]]
        label = f"mean, {100 * report.confidence:.0f} % interval over {variant.over}" if x == 0 else None
        axes.errorbar(x, 100 * variant.mean, yerr=reach, fmt="o", color="tab:blue", capsize=4, label=label)
        seeds = [100 * score.test_accuracy for score in variant.scores]
        axes.plot([x + 0.15] * len(seeds), seeds, ".", color="0.5", label="each seed" if x == 0 else None)
        if report.is_published_setting and variant.published is not None:
            axes.plot(x - 0.15, 100 * variant.published, "D", color="tab:orange", mfc="none", label="published")
    axes.set_xticks(range(len(report.variants)), [drawn(variant.name) for variant in report.variants], rotation=20)
    axes.set(ylabel="test accuracy (%)", xlim=(-0.6, len(report.variants) - 0.4))
    axes.set_title(drawn(f"study {report.study} on {short(report.dataset)}, {report.epochs} epochs"))
    axes.grid(axis="y", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize="small")
    save_figure(path, figure)


def write_curves_picture(path: Path, curves: Mapping[str, Mapping[int, Sequence[EpochRecord]]], title: str) -> None:
    """Training and validation loss against the epoch: a colour per variant, thin lines for seeds, a thick one for their
    mean."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(drawn(title))
    panels = figure.subplots(1, 2)
    colours = colormaps["tab10" if len(curves) <= 10 else "viridis"]
    for axes, measure, label in zip(
        panels, ("train_loss", "validation_loss"), ("training loss (nats)", "validation loss (nats)"), strict=True
    ):
        for number, (name, by_seed) in enumerate(curves.items()):
            colour = colours(number) if len(curves) <= 10 else colours(number / (len(curves) - 1))
            _lines(axes, by_seed, measure, colour, name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_figure(path, figure)


def _lines(axes: Axes, by_seed: Mapping[int, Sequence[EpochRecord]], measure: str, colour: object, name: str) -> None:
    every = [[getattr(record, measure) for record in records] for records in by_seed.values()]
    epochs = [record.epoch for record in next(iter(by_seed.values()))]
    for values in every if len(every) > 1 else []:
        axes.plot(epochs, values, color=colour, linewidth=0.6, alpha=0.5)
    marker = "." if len(epochs) < 3 else ""
    axes.plot(epochs, np.mean(every, axis=0), color=colour, linewidth=1.8, marker=marker, label=drawn(name))


def short(data: str) -> str:
    """Name of a data set for a title: without the folders of its path."""
    kind, colon, path = data.partition(":")
    return f"{kind}{colon}{Path(path).name}"
