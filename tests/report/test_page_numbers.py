"""Every number of the page's figures is the summary's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from testbed.report.page import render
from testbed.report.read.evidence import Marginals, read_evidence
from testbed.report.sections.rates import bit_charts, other_models
from tests.support.report_pages import SHAPES, Page, assert_shown, summary_of, worst_articles

MEASURES = {"SDC-1": "sdc1", "nonfinite": "nonfinite", "outside tolerance": "outside"}


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


def test_zero_sdc(report_of: Callable[..., Path]) -> None:
    page = Page(report_of(harm=0.0))
    assert "None of" in page.text
    assert "No fault changed a prediction, made an output nonfinite, or ended the engine." in page.text
    assert not worst_articles(report_of(harm=0.0))


def test_sites_are_in_the_order_of_execution(report_of: Callable[..., Path]) -> None:
    report = report_of()
    sites = json.loads((report.parent / "model.sites.json").read_text())["sites"]
    shown = [line[0] for line in Page(report).tables["sites-activation"][1:] if "all sites" not in line[0]]
    assert shown == [site["name"] for site in sites if site["where"] == "activation"]


def test_what_was_not_run_is_not_shown(report_of: Callable[..., Path]) -> None:
    def sections(**fields: Any) -> set[str]:
        return {str(a["id"]) for tag, a in Page(report_of(**fields)).tags if tag == "section"}

    model = {"sites", "bits", "tiers", "fault-models", "outcomes"}
    always = {"verdict", "key-figures", "sweep", "worst", "effort", "reading", "manifest"}
    assert sections() == model | always | {"attention"}
    assert sections(**SHAPES["no weights, one tier"]) == model | always
    assert sections(**SHAPES["attention only"]) == always | {"attention"}
    assert "sites-weight" not in Page(report_of(**SHAPES["no weights, one tier"])).tables
