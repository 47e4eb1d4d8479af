"""Figures as files: the same bytes each time, and readable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from testbed.core.folder.figures import FigureFormat, figure_bytes, save_figure


def drawn() -> Figure:
    figure = Figure(figsize=(2, 1))
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0, 1, 0], label="curve")
    axes.fill_between([0, 1, 2], [0, 1, 0])  # clipped: an SVG names its clip paths
    axes.legend()
    return figure


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_figure_is_the_same_bytes(form: FigureFormat) -> None:
    assert figure_bytes(drawn(), form) == figure_bytes(drawn(), form)


def test_a_png_is_written_whole(tmp_path: Path) -> None:
    save_figure(tmp_path / "figure.png", drawn())
    picture = np.asarray(Image.open(tmp_path / "figure.png").convert("L"))
    assert picture.shape == (120, 240)
    assert picture.min() < 128 < picture.max()
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
