"""Figures as files: whole or not at all, and the same bytes for the same figure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from testbed.core.folder.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FigureFormat = Literal["svg", "png"]
_NO_DATE: dict[FigureFormat, dict[str, Any]] = {"svg": {"Date": None}, "png": {}}


def figure_bytes(figure: Figure, form: FigureFormat = "png", dpi: int = 120) -> bytes:
    """A figure as the content of a file; no date is written, and names inside an SVG follow from what is drawn."""
    import matplotlib as mpl

    made = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "testbed"}):
        figure.savefig(made, format=form, dpi=dpi, metadata=_NO_DATE[form])
    return made.getvalue()


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG."""
    write_bytes(path, figure_bytes(figure))
