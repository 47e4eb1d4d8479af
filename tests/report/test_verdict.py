from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.summary.record import Marginal, Summary, SummaryEngine, SummaryTier
from testbed.report.read.evidence import Evidence, Marginals
from testbed.report.sections.verdict import verdict

Rate = tuple[float, float, float]


def record(
    by: str, value: Any, sdc1: Rate, where: str = "activation", op: str = "flip", rows: int = 100
) -> dict[str, Any]:
    rates = dict(zip(("rate", "low", "high"), sdc1, strict=True))
    nonfinite = {"rate": 0.002, "low": 0.001, "high": 0.003}
    key = {"target": "model", "where": where, "op": op, "by": by, "value": value}
    return key | {"faults": rows, "n": rows, "rates": {"sdc1": rates, "outside": rates, "nonfinite": nonfinite}}


def told(*records: dict[str, Any]) -> str:
    edges = ((0, 0.5), (0.5, 1))
    tiers = [SummaryTier(tier=n, low=low, high=high, available=9, images=9) for n, (low, high) in enumerate(edges)]
    engine = SummaryEngine(deployment_id="", precision="fp32", threads=1)
    summary = Summary.model_construct(engine=engine, tiers=tiers)
    evidence = Evidence(Path("run"), summary, {}, Marginals(map(Marginal.model_validate, records)))
    plain = re.sub(r"<[^>]*>", "", "\n".join(str(paragraph) for paragraph in verdict(evidence)))
    return plain.replace("\u202f", " ").replace("\u00a0", " ")


def test_the_headline_is_the_overall_rate() -> None:
    text = told(record("all", None, (0.0125, 0.01, 0.015)))
    assert text.startswith(
        "About 1 in 80 random single bit flips of an activation value changes the model's prediction:"
    )
    assert "1.25 % [1.00, 1.50]" in text
    assert "NaN or infinity reaches the output in 0.20 % [0.10, 0.30] of cases." in text


def test_the_top_bits_share_is_of_all_bits() -> None:
    bits = [record("bit", 30, (0.3, 0.2, 0.4)), record("bit", 31, (0.1, 0.0, 0.2))]
    harmless = [record("bit", bit, (0.0, 0.0, 0.1)) for bit in range(3)]
    text = told(record("all", None, (0.08, 0.05, 0.1)), *bits, *harmless)
    assert "The top exponent bit (30) alone is responsible for about 75 % of that: struck there, 30 % [20, 40]" in text
    assert "Bits 0 to 2 changed none of 300 predictions." in text


def test_a_low_bit_that_did_harm_ends_the_harmless_run() -> None:
    bits = [record("bit", b, (0.0 if b != 1 else 0.2, 0.0, 0.3)) for b in range(5)]
    text = told(record("all", None, (0.04, 0.0, 0.1)), *bits)
    assert "The mantissa bit (1)" in text
    assert "changed none" not in text


def test_bits_that_were_not_sampled_are_not_called_harmless() -> None:
    bits = [record("bit", bit, (0.0, 0.0, 0.1)) for bit in (0, 7, 22)]
    text = told(record("all", None, (0.04, 0.0, 0.1)), *bits, record("bit", 30, (0.2, 0.1, 0.3)))
    assert "The sampled bits from 0 to 22 changed none of 300 predictions." in text


def test_no_change_at_all() -> None:
    text = told(record("all", None, (0.0, 0.0, 0.004), rows=1000), record("bit", 30, (0.0, 0.0, 0.1)))
    assert "None of 1,000 sampled random single bit flips of an activation value changed a prediction" in text
    assert "at most 0.40 %" in text
    assert "responsible" not in text


@pytest.mark.parametrize(
    ("sure", "ending"),
    [((0.01, 0.005, 0.02), "these intervals do not overlap"), ((0.05, 0.02, 0.07), "these intervals overlap")],
)
def test_tiers_are_compared_with_their_intervals(sure: Rate, ending: str) -> None:
    text = told(
        record("all", None, (0.03, 0.02, 0.04)),
        record("tier", 0, (0.06, 0.04, 0.08)),
        record("tier", 1, sure),
    )
    assert "From the least to the most confident images the rate goes from 6.0 % [4.0, 8.0] to" in text
    assert ending in text


def test_weights_have_a_paragraph_of_their_own() -> None:
    text = told(record("all", None, (0.01, 0.0, 0.02)), record("all", None, (0.05, 0.04, 0.06), where="weight"))
    first, second = text.split("\n")
    assert "activation" in first
    assert second.startswith(
        "Under random single bit flips of a weight, about 1 in 20 predictions changes: 5.0 % [4.0, 6.0]."
    )


def test_the_most_sensitive_tensor_is_named() -> None:
    sites = [record("site", "block.0.norm1", (0.03, 0.0, 0.1)), record("site", "a<b", (0.04, 0.0, 0.1))]
    assert "any tensor is that of a&lt;b: 4.0 % [0, 10.0]." in told(record("all", None, (0.03, 0.02, 0.04)), *sites)


def test_without_flips_the_next_fault_model_is_told() -> None:
    text = told(record("all", None, (0.5, 0.4, 0.6), op="random"))
    assert "1 in 2 random replacements of an activation value" in text
