"""Figures of rates: the points and intervals are the table's, the file is ready for print."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from testbed.core.errors import UsageError
from testbed.publish.figures import STYLES, rates_figure, write_figures
from testbed.publish.rates import read_rates
from tests.support.pairs import as_of_engine


@pytest.fixture(scope="module")
def both(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [tiny_run, as_of_engine(tiny_run, tmp_path_factory.mktemp("pair") / "other", "openvino")]


@pytest.mark.parametrize("dimension", ["block", "kind", "bit"])
def test_points_and_intervals_are_the_tables(both: list[Path], dimension: str) -> None:
    rates = read_rates(both, dimension, ["flip"])
    figure = rates_figure(rates, dimension, "sdc1", "flip", STYLES["paper"])
    assert [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes] == [
        "flip in activations",
        "flip in weights",
    ]
    for axis, where in zip(figure.axes, ("activation", "weight"), strict=True):
        part = rates.table[(rates.table.target == "model") & (rates.table["where"] == where)]
        assert len(axis.containers) == 2
        for container, run in zip(axis.containers, both, strict=True):
            mine = part[part.run == str(run)]
            points, _, (bars,) = container
            drawn = points.get_xdata() if dimension == "kind" else points.get_ydata()
            np.testing.assert_allclose(drawn, 100 * mine.sdc1, rtol=1e-12)
            ends = np.array(bars.get_segments())[:, :, 0 if dimension == "kind" else 1]
            np.testing.assert_allclose(ends, 100 * mine[["sdc1_low", "sdc1_high"]].to_numpy(), rtol=1e-9, atol=1e-9)
    assert [text.get_text() for text in figure.legends[0].texts] == ["ort-cpu", "openvino"]


def test_files_are_ready_for_print_and_the_same_each_time(both: list[Path], tmp_path: Path) -> None:
    written = write_figures(both, tmp_path / "a", by=["block"])
    again = write_figures(both, tmp_path / "b", by=["block"])
    assert written == [tmp_path / "a" / "rates-by-block.svg"]
    assert written[0].read_bytes() == again[0].read_bytes()
    svg = written[0].read_text()
    assert 'width="252pt"' in svg  # 3.5 inches
    assert "<text" not in svg  # letters are outlines
    assert not re.findall(r'(?:href|src)="http', svg)
    (pdf,) = write_figures(both, tmp_path, by=["bit_class"], form="pdf")
    assert pdf.name == "rates-by-bit-class.pdf"
    content = pdf.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"/CreationDate" not in content


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"by": ["colour"]}, "unknown dimension 'colour'"),
        ({"style": "poster"}, "unknown figure style 'poster'"),
        ({"form": "gif"}, "unknown figure format 'gif'"),
        ({"measure": "sdc"}, "unknown measure 'sdc'; did you mean 'sdc1'"),
        ({"op": "zap"}, "unknown fault model 'zap'"),
        ({"by": ["bit"], "op": "random"}, "no fault of 'random' has a rate of 'sdc1' by bit"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tiny_run: Path, tmp_path: Path, options: dict[str, object], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        write_figures([tiny_run], tmp_path, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
