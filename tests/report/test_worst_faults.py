"""The worst faults of the page: the worst ones, with their pictures where the images are at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from testbed.report import build_report
from tests.support.report_pages import Page, copy_of, worst_articles


def test_the_worst_faults_are_the_worst(report_of: Callable[..., Path]) -> None:
    report = report_of()
    rows = pq.read_table(report.parent / "results.parquet").to_pandas()
    rows = rows[(rows["target"] == "model") & (rows["where"] == "activation")]
    overturned = rows[(rows["outcome"] == "sdc1") & ~rows["nonfinite"].astype(bool)]
    best = overturned.groupby("image_id", observed=True)["margin_golden"].max().nlargest(4)
    shown = [a for a in worst_articles(report) if a["heading"].startswith("Activations: surest predictions overturned")]
    keyed = overturned.set_index(["fault_id", "image_id"])["margin_golden"]
    assert [keyed[int(a["fault"]), a["image"]] for a in shown] == pytest.approx(best.tolist())
    assert len(shown) == 4
    broken = [a for a in worst_articles(report) if a["heading"] == "Activations: nonfinite output"]
    flags = rows.set_index("fault_id")["nonfinite"]
    assert broken
    assert all(flags[int(a["fault"])] for a in broken)


def test_the_pictures_are_the_images(report_of: Callable[..., Path]) -> None:
    for article in worst_articles(report_of()):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(article["picture"]))))
        expected = np.random.default_rng(int(article["image"].removeprefix("toy/"))).integers(0, 256, (8, 8), np.uint8)
        factor = shown.shape[0] // 8
        assert factor > 4
        np.testing.assert_array_equal(shown, expected.repeat(factor, 0).repeat(factor, 1))


def test_the_preprocessing_is_told(run_of: Callable[..., Path], tmp_path: Path) -> None:
    page = Page(build_report(copy_of(run_of(), tmp_path)))
    assert "input toy: shorter side to 8" in " ".join(page.text.split())


def test_without_images_the_faults_are_still_told(run_of: Callable[..., Path], tmp_path: Path) -> None:
    page = Page(build_report(copy_of(run_of(), tmp_path)))
    assert "img" not in {tag for tag, _ in page.tags}
    assert "image not at hand" in page.text
    assert "testbed fault replay DIR" in page.text
