"""``testbed campaign plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.campaigns import TINY
from tests.support.commands import invoke


def test_json_has_every_part_and_the_totals() -> None:
    result = invoke("campaign", "plan", TINY, "--json", "--margin", "0.05")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["margin"], told["confidence"], told["by"]) == (0.05, 0.95, ["site", "bit", "tier"])
    assert told["totals"]["parts"] == len(told["parts"])
    assert told["totals"]["population"] == sum(part["population"] for part in told["parts"])
    assert told["adaptive"] is None


def test_the_table_tells_some_parts_and_how_many_more_there_are() -> None:
    told = invoke("campaign", "plan", TINY, "--by", "bit_class", "--rows", "2", "--seconds-per-row", "0.5").stdout
    assert "Leveugle's n" in told
    assert "more; --by block tells fewer" in told
    assert "the spec draws" in told
    assert " s;" in told


def test_a_stop_table_tells_the_first_round(tmp_path: Path) -> None:
    spec = tmp_path / "adaptive.toml"
    spec.write_text(
        "\n".join(line for line in TINY.read_text().splitlines() if "per_stratum" not in line)
        + '\n[stop]\nmargin = 0.02\nmeasure = "outside"\n'
    )
    told = invoke("campaign", "plan", str(spec), "--by", "block").stdout
    assert "the first round draws" in told
    assert "[stop] ends with" in told
    assert "[stop] is likely to end after" in told
    assert json.loads(invoke("campaign", "plan", str(spec), "--json").stdout)["margin"] == 0.02


def test_a_relative_margin_tells_the_faults_and_the_cost_of_it(tmp_path: Path) -> None:
    spec = tmp_path / "relative.toml"
    spec.write_text(
        "\n".join(line for line in TINY.read_text().splitlines() if "per_stratum" not in line)
        + '\n[stop]\nmargin = 0.001\nrelative = 0.1\nmeasure = "outside"\nper = "all"\n'
    )
    told = json.loads(invoke("campaign", "plan", str(spec), "--json").stdout)["adaptive"]
    assert (told["relative"], told["rate"]) == (0.1, 0.01)  # the rate that needs most: there 10 % of it is the floor
    assert told["expected"]["faults"] == told["leveugle"] > 0
    frequent = json.loads(invoke("campaign", "plan", str(spec), "--rate", "0.2", "--json").stdout)["adaptive"]
    assert frequent["leveugle"] < told["leveugle"]
    text = invoke("campaign", "plan", str(spec), "--rate", "0.2", "--seconds-per-row", "0.001").stdout
    assert "so that rates are 20 %" in " ".join(text.split())
    for plan in (told, frequent):
        assert plan["faults_at_least"] <= plan["forecast"]["faults"]
        assert plan["forecast"]["rows"] >= plan["forecast"]["faults"] > 0
    assert frequent["forecast"]["faults"] < told["forecast"]["faults"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--by", "blocks"],
            "unknown dimension 'blocks'; did you mean 'block'? Known: site, kind, block",
        ),
        (["--margin", "0"], "the margin must be above 0"),
        (["--confidence", "2"], "is not in the range 0.01<=x<=0.999999999"),
        (["--set", "faults=3"], "faults"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str) -> None:
    result = invoke("campaign", "plan", TINY, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
