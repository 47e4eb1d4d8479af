"""The trade-off's picture: names stand apart, are whole, and the dark one is dark."""

from __future__ import annotations

import io
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from testbed.bench.figure import apart, draw_tradeoff, tradeoff_png


def entry(model: str, milliseconds: float, top1: float, pareto: bool, wrong: float | None = 0.6) -> Any:
    row = SimpleNamespace(
        **{f"{q}_ms": milliseconds * k for q, k in (("p50", 1), ("p90", 1.1), ("p99", 1.4))}, macs=1e6
    )
    quality = SimpleNamespace(top1=top1, top5=0.98, f1=top1, confidence_right=0.9, confidence_wrong=wrong)
    rate = SimpleNamespace(rate=0.008, low=0.006, high=0.01) if pareto else None
    return SimpleNamespace(model=model, pareto=pareto, latency=[row], quality=quality, vulnerability=rate)


@pytest.fixture
def found() -> Any:
    entries = [entry("runs/the-original-model", 3.1, 0.66, True), entry("runs/a/keep0.9", 2.9, 0.655, False)]
    entries += [entry("runs/b/keep0.9", 2.85, 0.654, False, None), entry("runs/keep0.5", 1.9, 0.6, True)]
    return SimpleNamespace(entries=entries, batch=1)


def test_no_name_covers_another_or_leaves_the_picture(found: Any) -> None:
    figure = draw_tradeoff(found, "grey")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = figure.bbox
    for axes in figure.axes:
        texts = [text for text in (*axes.get_yticklabels(), *axes.texts) if text.get_text()]
        legend = axes.get_legend()
        boxes = [Text.get_window_extent(text) for text in texts]  # without the line that leads to it
        boxes += [legend.get_window_extent()] if legend else []
        for number, box in enumerate(boxes):
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1
            assert not any(box.overlaps(other) for other in boxes[:number]), axes.get_title(loc="left")
        if legend:
            assert not legend.get_window_extent().overlaps(axes.bbox)
    assert {"a/keep0.9", "b/keep0.9"} <= {text.get_text().removeprefix("runs/") for text in figure.axes[0].texts}


def test_the_dark_picture_is_dark(found: Any) -> None:
    light, dark = (np.asarray(Image.open(io.BytesIO(tradeoff_png(found, d))).convert("L")) for d in (False, True))
    assert light.shape == dark.shape
    assert np.median(light) > 250
    assert np.median(dark) < 40


@given(st.lists(st.floats(0, 1), max_size=12).map(sorted), st.floats(0.01, 0.2))
def test_places_are_moved_apart(places: list[float], least: float) -> None:
    moved = apart(places, least)
    assert all(new >= old for new, old in zip(moved, places, strict=True))
    assert all(b - a >= least * 0.999 for a, b in pairwise(moved))
