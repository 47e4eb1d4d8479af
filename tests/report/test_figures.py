"""What holds of every drawing, whatever it shows: it is well-formed, and no text runs into another or off the edge."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.formats import FORMATS, FP32
from testbed.report.charts import svg
from testbed.report.charts.axis import RateAxis
from testbed.report.charts.bitchart import bit_chart
from testbed.report.charts.forest import Category, forest
from testbed.report.charts.heatmap import LEVELS, ColourScale, SiteGrid, colour_key, heat_map, label_width
from testbed.report.charts.stack import Bar, stacked_bars
from testbed.report.estimate import Composition, RateEstimate
from testbed.report.formatting import compact, rate, sample

SVG = "{http://www.w3.org/2000/svg}"
SIZES = {"axis": 11.5, "fine": 9.5, "mono": 11.0}  # the style sheet's; others 12
CHARACTER = 0.58  # mean width of a character over its size
Box = tuple[float, float, float, float]


def drawings(report: Path) -> list[ElementTree.Element]:
    return [
        ElementTree.fromstring(found)
        for found in re.findall(r"<svg .*?</svg>", report.read_text(), re.S)
        if SVG[1:-1] in found
    ]


def boxes(drawing: ElementTree.Element) -> list[tuple[str, Box]]:
    """(text, box) of every text: left, top, right, bottom, from generous metrics of a sans-serif face."""
    found = []
    for text in drawing.iter(f"{SVG}text"):
        size = next((SIZES[c] for c in str(text.get("class")).split() if c in SIZES), 12.0)
        width = len(text.text or "") * size * CHARACTER
        x, y = float(text.get("x", "")), float(text.get("y", ""))
        left = x - {"middle": width / 2, "end": width}.get(str(text.get("text-anchor")), 0.0)
        found.append((text.text or "", (left, y - 0.72 * size, left + width, y + 0.15 * size)))
    return found


def assert_legible(drawing: ElementTree.Element) -> None:
    right, bottom = (float(n) for n in str(drawing.get("viewBox")).split()[2:])
    texts = boxes(drawing)
    for text, box in texts:
        assert box[0] >= -1, text
        assert box[1] >= -1, text
        assert box[2] <= right + 1, text
        assert box[3] <= bottom + 1, text
    for (one, a), (other, b) in combinations(texts, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one!r} runs into {other!r}"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"blocks": 12, "headless": (3,)},
        {"blocks": 24},
        {"blocks": 1, "weights": False},
        {"model": False},
        {"harm": 0.0},
    ],
    ids=str,
)
def test_no_text_overlaps(report_of: Callable[..., Path], fields: dict[str, Any]) -> None:
    found = [d for d in drawings(report_of(**fields)) if d.find(f".//{SVG}text") is not None]
    assert len(found) >= 4
    for drawing in found:
        assert_legible(drawing)
        assert drawing.get("aria-label")


@st.composite
def estimates(draw: st.DrawFn) -> RateEstimate:
    low, rate, high = sorted(draw(st.tuples(*[st.floats(0, 1)] * 3)))
    return RateEstimate(rate, low, high, draw(st.integers(1, 10**6)), draw(st.integers(10**6, 10**8)))


def test_drawings_escape_what_they_are_given() -> None:
    drawing = svg.element("text", 'a <b> & "c"', class_='x" onload="y', x=1.005)
    assert drawing.startswith('<text class="x&#34; onload=&#34;y" x="')
    assert ElementTree.fromstring(str(drawing)).text == 'a <b> & "c"'


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup))


@given(st.lists(st.tuples(estimates(), estimates()), min_size=1, max_size=6), st.floats(1e-7, 1), st.booleans())
def test_a_forest_plot_is_legible(
    pairs: list[tuple[RateEstimate, RateEstimate]], top: float, square_root: bool
) -> None:
    categories = [
        Category(f"margin ({n}, 1]", {"sdc1": a, "nonfinite": b}, "16 of 488 images, thin")
        for n, (a, b) in enumerate(pairs)
    ]
    assert_legible(parsed(forest(categories, top, "label", square_root)))


@given(st.floats(1e-7, 1), st.sampled_from(sorted(FORMATS)))
def test_a_bit_chart_is_legible(top: float, name: str) -> None:
    fmt = FORMATS[name]
    estimate = RateEstimate(top / 2, 0, top, 10, 10)
    bits = {bit: {"sdc1": estimate, "nonfinite": estimate} for bit in range(fmt.bits)}
    drawing = parsed(bit_chart(bits, fmt, top, "label"))
    assert_legible(drawing)
    assert len(drawing.findall(f".//{SVG}title")) == fmt.bits


def test_bars_are_as_long_as_their_shares() -> None:
    composition = Composition({"identical": 0.5, "masked": 0.3, "sdc1": 0.2}, 10)
    drawing = parsed(stacked_bars([Bar("all bits", composition, None)], "SDC-1", "label"))
    widths = {str(r.get("class")).split()[-1]: float(r.get("width", "")) for r in drawing.iter(f"{SVG}rect")}
    total = sum(widths.values())
    assert {name: width / total for name, width in widths.items()} == pytest.approx(composition.shares)


def cells(drawing: ElementTree.Element) -> dict[str, str]:
    """Site -> the class of its cell."""
    found = {}
    for group in drawing.iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert rect is not None
        found[str(title.text).partition(":")[0]] = str(rect.get("class"))
    return found


def test_zero_missing_and_absent_cells_differ() -> None:
    rates = {"block.0.norm1": 0.0, "block.1.norm1": 0.02, "block.1.attn.q": 0.05, "head": 0.01}
    shown = {site: RateEstimate(r, r / 2, r * 2 + 0.01, 9, 9) for site, r in rates.items()}
    grid, scale = SiteGrid.of(list(rates)), ColourScale.reaching(rates.values())
    drawing = parsed(heat_map(grid, shown, {}, scale, label_width([grid]), "label"))
    found = cells(drawing)
    assert found["block.0.norm1"] == "cell h0"
    assert found["block.0.attn.q"] == "missing"
    assert found["block.1.attn.q"] == f"cell h{LEVELS}"
    assert found["block.1.norm1"] not in ("cell h0", f"cell h{LEVELS}")
    titles = {str(title.text) for title in drawing.iter(f"{SVG}title")}
    assert {f"{site}: {rate(estimate)}; {sample(estimate)}" for site, estimate in shown.items()} < titles
    assert {compact(estimate.rate) for estimate in shown.values()} < {text for text, _ in boxes(drawing)}
    assert set(found) == {*rates, "block.0.attn.q"}  # a row outside the blocks has one cell only


def test_rows_keep_the_order_of_execution_when_blocks_differ() -> None:
    names = [
        "embed",
        "block.0.norm2",
        "block.0.mlp",
        "block.1.norm1",
        "block.1.attn",
        "block.1.norm2",
        "block.1.mlp",
        "head",
    ]
    grid = SiteGrid.of(names)
    assert grid.rows == ("embed", "norm1", "attn", "norm2", "mlp", "head")
    assert grid.columns == ("embed", 0, 1, "head")
    assert grid.sites["norm2", 1] == "block.1.norm2"
    assert grid.sites["head", "head"] == "head"


def test_tokens_and_norms_before_the_blocks_stand_before_them() -> None:
    early = ["cls_token", "dist_token", "registers", "pos_embed", "embed_norm.weight"]
    grid = SiteGrid.of([*early, "block.0.attn.layerscale", "head_dist", "head"])
    assert {grid.sites[name, "embed"] for name in early} == set(early)
    assert grid.rows == (*early, "attn.layerscale", "head_dist", "head")


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_colour_classes_ascend_and_zero_is_none_of_them(rates: list[float], a: float, b: float) -> None:
    scale = ColourScale.reaching(rates)
    assert len(scale.bounds) == LEVELS
    assert scale.level(0.0) == 0
    assert all(1 <= scale.level(r) <= LEVELS for r in rates if r > 0)
    low, high = sorted((a, b))
    assert scale.level(low) <= scale.level(high)
    assert max(rates) <= scale.bounds[-1] or max(rates) > 1
    assert_legible(parsed(colour_key(scale)))


@given(st.floats(0, 1), st.floats(60, 400), st.booleans(), st.floats(16, 50))
def test_ticks_are_apart_and_on_the_axis(top: float, length: float, square_root: bool, apart: float) -> None:
    axis = RateAxis.reaching([top], length, square_root)
    assert axis.top >= top
    places = [place for place, _ in axis.ticks(apart)]
    assert places[0] == 0
    assert places[-1] == pytest.approx(length)
    assert all(later - earlier >= apart - 1e-9 for earlier, later in pairwise(places))
    assert axis(axis.top / 4) == pytest.approx(length * (0.5 if square_root else 0.25))


def test_bands_name_the_roles_of_fp32() -> None:
    drawing = parsed(bit_chart({}, FP32, 0.1, "label"))
    texts = {text for text, _ in boxes(drawing)}
    assert {"sign", "exponent, 8 bits", "mantissa, 23 bits", "31", "0"} <= texts


def test_row_names_stay_in_sight_where_cells_are_scrolled() -> None:
    rates = {"embed": 0.1, "block.0.norm1": 0.2, "block.1.norm1": 0.02, "head": 0.01}
    shown = {site: RateEstimate(r, r / 2, r * 2, 9, 9) for site, r in rates.items()}
    grid, scale = SiteGrid.of(list(rates)), ColourScale.reaching(rates.values())
    names, map_ = parsed(heat_map(grid, shown, {}, scale, label_width([grid]), "label"))
    assert [text for text, _ in boxes(names)] == ["embed", "norm1", "head"]
    assert not {"norm1"} & {text for text, _ in boxes(map_)}
    assert (names.get("height"), names.get("class")) == (map_.get("height"), "narrow")


def test_only_narrow_charts_are_made_to_fit_a_telephone() -> None:
    assert 'class="narrow"' in svg.drawing(514, 10, "forest", [])
    assert "narrow" not in svg.drawing(1060, 10, "bits", [])
