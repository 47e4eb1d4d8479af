"""``testbed campaign show``: short unless asked, then every fault model's rates by what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from testbed.campaign.summary.record import Summary
from testbed.cli.tables.summary import summary_tables
from tests.support.commands import invoke
from tests.support.narrow import shown


def show(*arguments: object) -> Result:
    return invoke("campaign", "show", *arguments)


def told(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [" ".join(line.replace("│", " ").split()) for line in result.stdout.splitlines()]


def expected(marginal: dict[str, Any], name: str) -> str:
    """The beginning of the row of this rate."""
    return f"{name} {marginal['faults']:,} {marginal['n']:,} "


@pytest.fixture(scope="module")
def marginals(tiny_run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(show(tiny_run, "--json").stdout)["marginals"]
    return found


def test_it_is_short_and_says_where_the_rest_is(tiny_run: Path, marginals: list[dict[str, Any]]) -> None:
    lines = told(show(tiny_run))
    assert "flip, by confidence tier" in lines
    assert "flip, by site" not in lines
    assert not any(line.startswith("random, by") for line in lines)
    assert f"testbed campaign show {tiny_run} --by site,bit" in " ".join(lines)
    (total,) = [
        m for m in marginals if (m["by"], m["op"], m["where"], m["target"]) == ("all", "random", "weight", "model")
    ]
    assert any(line.startswith(expected(total, "random, all")) for line in lines)


def test_one_sided_bounds_of_the_totals_are_below_their_table(tiny_run: Path, marginals: list[dict[str, Any]]) -> None:
    text = " ".join(" ".join(told(show(tiny_run))).split())
    totals = [m for m in marginals if m["by"] == "all"]
    for total in totals:
        rate = total["rates"]["outside"]
        assert rate["rate"] <= rate["high_95"] <= rate["high_99"]
        assert f"outside tolerance {100 * rate['high_95']:.2f} / {100 * rate['high_99']:.2f} %" in text
    assert totals


def test_rates_by_block(tiny_run: Path, marginals: list[dict[str, Any]]) -> None:
    lines = told(show(tiny_run, "--by", "block"))
    blocks = [m for m in marginals if m["by"] == "block"]
    assert blocks
    for marginal in blocks:
        name = "outside the blocks" if marginal["value"] is None else f"block {marginal['value']}"
        assert any(line.startswith(expected(marginal, name)) for line in lines), name


def test_details_are_of_every_fault_model(tiny_run: Path, marginals: list[dict[str, Any]]) -> None:
    lines = told(show(tiny_run, "--by", "site,bit"))
    assert not any("by block" in line or "by confidence tier" in line for line in lines)
    asked = [m for m in marginals if m["by"] in ("site", "bit")]
    assert len({m["op"] for m in asked}) > 1
    for marginal in asked:
        name = f"bit {marginal['value']}" if marginal["by"] == "bit" else marginal["value"]
        assert any(line.startswith(expected(marginal, name)) for line in lines), marginal
    for op in {m["op"] for m in asked}:
        assert f"{op}, by site" in lines


def test_one_fault_model_may_be_asked_for(tiny_run: Path) -> None:
    lines = told(show(tiny_run, "--by", "site", "--op", "random"))
    assert "random, by site" in lines
    assert not any(line.startswith("flip") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--by", "blok"], "unknown word 'blok'; did you mean 'block'? Known: tier, block"),
        (["--by", "colour"], "unknown word 'colour'; known: tier, block, kind, site, bit_class, bit"),
        (["--op", "zap"], "unknown fault model 'zap'; known: flip"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(tiny_run: Path, arguments: list[str], line: str) -> None:
    result = show(tiny_run, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert line in result.stderr


def test_an_adaptive_campaign_tells_whether_it_reached_its_margin(adaptive_run: Path) -> None:
    summary = json.loads(show(adaptive_run, "--json").stdout)
    rounds = len(summary["stop"]["history"])
    (line,) = (line for line in told(show(adaptive_run)) if line.startswith("stop "))
    assert line.startswith(f"stop reached after {rounds} round")
    assert "asked for ±8" in line
    widest = max(domain["half_width"] for domain in summary["stop"]["history"][-1]["domains"])
    assert f"widest: ±{100 * widest:.2g} points of SDC-1" in line
    narrow = shown(summary_tables(Summary.model_validate(summary), adaptive_run), 60)
    assert any("stop " in text for text in narrow)
