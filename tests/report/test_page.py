"""The page: well-formed, self-contained, escaped, the same bytes for the same run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.core.folder.files import sha256_file
from testbed.report import build_report
from tests.support.report_pages import Page, change_summary, copy_of, summary_of


def test_head_of_the_page(report_of: Callable[..., Path]) -> None:
    report = report_of()
    page, summary = Page(report), summary_of(report)
    for words in (
        f"Faults {summary['faults']:,} {summary['rows']:,} rows",
        "Test accuracy 96.00 % [92.3, 98.0], 200 test images",  # Wilson, by hand: 192 of 200
        "Zero-fault gate exact ✓ 0 of 4,096",
        "1.2e-7 ✓ largest |difference|; bound 1e-5",
        "8,123",
        "4 of 23 images, thin",
        "4 of 24 images",
        summary["statement"],
    ):
        assert words in page.text


def test_a_failed_gate_is_marked(run_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(run_of(), tmp_path)
    change_summary(run, zero_fault={"rows": 10, "mismatches": 3}, drift={"max_abs_diff": 2e-5, "bound": 1e-5})
    page = Page(build_report(run))
    assert "3 differ ✗" in page.text
    assert "2e-5 ✗" in page.text
    assert "✓" not in page.text


def test_self_contained_and_well_formed(report_of: Callable[..., Path], shape: dict[str, Any]) -> None:
    page = Page(report_of(**shape))
    assert "script" not in {tag for tag, _ in page.tags}
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page.source)
    addresses = re.findall(r"""(?:https?:)?//[^\s"'<>)]+""", without_pictures)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in page.source
    assert set(re.findall(r"url\(([^)]*)\)", page.source)) <= {"#hatch"}
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        if "src" in attributes:
            assert str(attributes["src"]).startswith("data:image/png;base64,")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_everything_is_escaped(report_of: Callable[..., Path]) -> None:
    page = Page(report_of(preset='<img src=x onerror="alert(2)">'))
    assert "<script>alert(1)" not in page.source  # a class name
    assert "<img src=x" not in page.source  # the model's, maybe a file's
    assert "<CPU>" not in page.source  # the host
    assert "<script>alert(1)</script>" in page.text
    assert "'a & b.toml'" in page.text


def test_manifest_at_the_foot(report_of: Callable[..., Path]) -> None:
    report = report_of()
    page = Page(report)
    foot = page.text[page.text.index("Manifest") :]
    for words in ("seed 42", "0123abcd", "torch 2.13", "Some <CPU>", "train 61 s", "ab" * 32, "2e-6"):
        assert words in foot
    assert sha256_file(report.parent / "results.parquet") in foot
    assert "someone" not in page.source


def test_the_classes_of_the_named_images(
    report_of: Callable[..., Path], run_of: Callable[..., Path], tmp_path: Path
) -> None:
    told = "16 images of 3 classes: cat (6), dog (5), <script>alert(1)</script> (5)."
    text = Page(report_of()).text
    assert f"The named images: {told}" in text
    assert f"They are {told}" in text
    run = copy_of(run_of(), tmp_path)
    change_summary(run, images={})  # of a campaign that did not tell them
    assert "named images:" not in Page(build_report(run)).text


def test_same_run_same_bytes(run_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(run_of(), tmp_path)
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first
    moved = tmp_path / "elsewhere"
    run.rename(moved)
    assert build_report(moved).read_bytes() == first
