from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.report import build_report
from testbed.report.page import render
from testbed.report.read.evidence import Marginals, read_evidence
from testbed.report.sections.rates import bit_charts, other_models

SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "deep": {"blocks": 12, "headless": (3,)},
    "no weights, one tier": {"weights": False, "attention": False, "tiers": 1},
    "first block without attention": {"headless": (0,), "attention": False},
    "no harm": {"harm": 0.0},
    "attention only": {"model": False},
    "no flips": {"ops": ("stuck1", "random"), "blocks": 1},
    "random words only": {"ops": ("random",), "blocks": 1},
}
VOID = {"meta", "img", "br", "hr", "link", "input"}
MEASURES = {"SDC-1": "sdc1", "nonfinite": "nonfinite", "outside tolerance": "outside"}


class Page(HTMLParser):
    """Checks that tags nest; keeps the numbers' tables by figure, every tag's attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] | None = None
        self._words: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(attributes.get("data-figure") or "", [])
        if tag == "tr" and self._table is not None:
            self._table.append([])
        if tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self._words.append(data)
        if self._table and self._table[-1] and self.open[-1] in ("td", "th"):
            self._table[-1][-1] += data


@pytest.fixture(params=list(SHAPES), ids=str)
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SHAPES[request.param]


def summary_of(report: Path) -> dict[str, Any]:
    return json.loads((report.parent / "summary.json").read_text())


def main_op(summary: dict[str, Any], target: str, where: str) -> str:
    found = {m["op"] for m in summary["marginals"] if (m["target"], m["where"]) == (target, where)}
    return next(op for op in ("flip", "stuck0", "stuck1", "random") if op in found)


def row_name(by: str, value: Any, summary: dict[str, Any], figure: str) -> str:
    """What a table calls a value."""
    tiers = {t["tier"]: f"margin {'[' if t['low'] == 0 else '('}{t['low']:g}, {t['high']:g}]" for t in summary["tiers"]}
    if by == "site" and figure.startswith("attention"):
        return re.sub(r"^block\.\d+\.", "", value)
    return {"bit": f"bit {value}", "block": f"block {value}, all sites", "tier": tiers.get(value)}.get(by) or str(value)


def test_every_number_of_a_figure_is_the_summarys(report_of: Callable[..., Path], shape: dict[str, Any]) -> None:
    report = report_of(**shape)
    page, summary = Page(report), summary_of(report)
    figures = {("model", "site"): "sites", ("model", "block"): "sites", ("model", "bit"): "bits-model"}
    figures |= {("model", "tier"): "tiers", ("attention", "site"): "attention", ("attention", "bit"): "bits-attention"}
    compared = 0
    for record in summary["marginals"]:
        target, where, by = record["target"], record["where"], record["by"]
        if (target, by) not in figures or record["op"] != main_op(summary, target, where):
            continue
        figure = f"{figures[target, by]}-{where}"
        name = row_name(by, record["value"], summary, figure)
        measures = {"sdc1" if target == "model" else "outside"} | ({"nonfinite"} if "sites" not in figure else set())
        lines = {MEASURES[line[1]]: line for line in page.tables[figure][1:] if line[0] == name}
        assert set(lines) == measures
        for measure, (_, _, rate, interval, faults, rows) in lines.items():
            assert_shown(rate, interval, record["rates"][measure])
            assert (faults, rows) == (f"{record['faults']:,}", f"{record['n']:,}")
            compared += 1
    assert compared >= 6


def assert_shown(rate: str, interval: str, expected: dict[str, float]) -> None:
    """Printed numbers are the expected ones, rounded to the places printed: two digits or more of the half-width."""
    low, high = interval.strip("[]").split(",\u00a0")
    shown = {"rate": rate.removesuffix("\u202f%"), "low": low, "high": high}
    for name, number in shown.items():
        places = len(number.partition(".")[2])
        if number != "0":
            assert float(number) == pytest.approx(100 * expected[name], abs=0.5001 * 10**-places)
            assert 50 * (expected["high"] - expected["low"]) >= 10**-places
        else:
            assert 100 * expected[name] < 0.5
    assert (shown["rate"] == "0") == (expected["rate"] == 0)


def test_sites_are_in_the_order_of_execution(report_of: Callable[..., Path]) -> None:
    report = report_of()
    sites = json.loads((report.parent / "model.sites.json").read_text())["sites"]
    shown = [line[0] for line in Page(report).tables["sites-activation"][1:] if "all sites" not in line[0]]
    assert shown == [site["name"] for site in sites if site["where"] == "activation"]


def test_by_fault_model_and_overall(report_of: Callable[..., Path]) -> None:
    report = report_of()
    page, summary = Page(report), summary_of(report)
    names = {"flip": "bit flips", "stuck0": "stuck-at-0", "stuck1": "stuck-at-1", "random": "random values"}
    for record in (m for m in summary["marginals"] if m["by"] == "all" and m["target"] == "model"):
        table = page.tables[f"ops-{record['where']}"]
        line = next(row for row in table if row[:2] == [names[record["op"]], "SDC-1"])
        assert_shown(line[2], line[3], record["rates"]["sdc1"])
        if record["op"] == "flip":
            assert f"{line[2]} {line[3]}" in re.sub(r"<[^>]*>", "", page.source)  # the verdict says the same


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


def test_what_was_not_run_is_not_shown(report_of: Callable[..., Path]) -> None:
    def sections(**fields: Any) -> set[str]:
        return {str(a["id"]) for tag, a in Page(report_of(**fields)).tags if tag == "section"}

    model = {"sites", "bits", "tiers", "fault-models", "outcomes"}
    always = {"verdict", "key-figures", "sweep", "worst", "effort", "reading", "manifest"}
    assert sections() == model | always | {"attention"}
    assert sections(**SHAPES["no weights, one tier"]) == model | always
    assert sections(**SHAPES["attention only"]) == always | {"attention"}
    assert "sites-weight" not in Page(report_of(**SHAPES["no weights, one tier"])).tables


def test_zero_sdc(report_of: Callable[..., Path]) -> None:
    page = Page(report_of(harm=0.0))
    assert "None of" in page.text
    assert "No fault changed a prediction, made an output nonfinite, or ended the engine." in page.text
    assert not worst_articles(report_of(harm=0.0))


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


def worst_articles(report: Path) -> list[dict[str, str]]:
    """Heading, fault id, image id and picture of each shown fault, in order."""
    found, heading = [], ""
    source = report.read_text().partition('<section id="worst">')[2].partition("</section>")[0]
    for title, article in re.findall(r"<h3>([^<]*)</h3>|(<article.*?</article>)", source, re.S):
        heading = title or heading
        if command := re.search(r"testbed fault replay DIR (\d+) --image (\S+?)<", article):
            picture = re.search(r'src="data:image/png;base64,([^"]+)"', article)
            shown = {"heading": heading, "picture": picture[1] if picture else "", "article": article}
            found.append({**shown, "fault": command[1], "image": command[2]})
    return found


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


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("report.html")))


def change_summary(run: Path, **values: Any) -> None:
    """A summary with these values, recorded as the summary stage's own."""
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["summary"]["outputs"]["summary.json"] = sha256_file(path)
    (run / "manifest.json").write_text(json.dumps(checksummed(manifest)))


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        build_report(tmp_path)


@pytest.mark.parametrize(
    ("file", "stage"), [("results.parquet", "execute"), ("faults.parquet", "plan"), ("summary.json", "summary")]
)
@pytest.mark.parametrize("harm", ["edited", "gone"])
def test_changed_files_are_refused_by_name(
    run_of: Callable[..., Path], tmp_path: Path, file: str, stage: str, harm: str
) -> None:
    run = copy_of(run_of(), tmp_path)
    if harm == "edited":
        (run / file).write_bytes((run / file).read_bytes()[:-1])
    else:
        (run / file).unlink()
    with pytest.raises(StaleArtefact, match=rf"{re.escape(file)}.*--redo {stage}"):
        build_report(run)
    assert not (run / "report.html").exists()


def test_a_summary_of_another_schema_is_refused(run_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(run_of(), tmp_path)
    change_summary(run, schema_version=99)
    with pytest.raises(StaleArtefact, match="schema version 99"):
        build_report(run)


def test_a_summary_of_another_kind_is_refused(run_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(run_of(), tmp_path)
    change_summary(run, marginals=[{"by": "all"}])
    with pytest.raises(StaleArtefact, match="not a campaign's summary"):
        build_report(run)


def test_rows_without_the_columns_are_refused(run_of: Callable[..., Path], tmp_path: Path) -> None:
    run = copy_of(run_of(), tmp_path)
    pd.DataFrame({"fault_id": [1]}).to_parquet(run / "results.parquet")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["execute"]["outputs"]["results.parquet"] = sha256_file(run / "results.parquet")
    (run / "manifest.json").write_text(json.dumps(checksummed(manifest)))
    with pytest.raises(
        StaleArtefact,
        match=r"results\.parquet is no table of results: column '.*' is missing; rerun with .* --redo execute`",
    ):
        build_report(run)


def test_bits_of_two_number_formats_have_two_charts(run_of: Callable[..., Path]) -> None:
    evidence = read_evidence(run_of())
    assert [figure.id for figure in bit_charts(evidence, "model")] == ["bits-model-activation", "bits-model-weight"]
    records = []
    for record in evidence.summary.marginals:
        if record.by == "bit":
            records.append(record.model_copy(update={"format": "fp32"}))
            if record.where == "weight" and isinstance(record.value, int) and record.value < 8:
                records.append(record.model_copy(update={"format": "int8", "n": 7}))
        else:
            records.append(record)
    figures = {f.id: f for f in bit_charts(replace(evidence, marginals=Marginals(records)), "model")}
    assert set(figures) == {"bits-model-activation", "bits-model-weight-fp32", "bits-model-weight-int8"}
    assert figures["bits-model-weight-int8"].title == "Weights, bit flips, words of int8"
    assert {line.estimate.rows for line in figures["bits-model-weight-int8"].lines} == {7}
    assert "sign" in figures["bits-model-weight-int8"].drawing
    assert 7 not in {line.estimate.rows for line in figures["bits-model-weight-fp32"].lines}


def test_every_fault_model_s_parts_are_told_in_numbers(run_of: Callable[..., Path]) -> None:
    evidence = read_evidence(run_of())
    found = {figure.id: figure for figure in other_models(evidence)}
    ops = evidence.marginals.ops("model", "activation")
    assert len(ops) > 1
    for number, op in enumerate(ops[1:], 1):
        figure = found[f"other-model-activation-{number}"]
        for by in ("block", "site", "tier", "kind"):
            for value in evidence.marginals.values("model", "activation", op, by):
                estimate = evidence.marginals.estimate("model", "activation", op, "sdc1", by, value)
                assert estimate in [line.estimate for line in figure.lines if line.measure == "SDC-1"]
    page = render(evidence, None)
    assert all(f'data-figure="{name}"' in page for name in found)
