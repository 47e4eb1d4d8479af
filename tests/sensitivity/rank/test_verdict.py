"""Verdicts of one score, and of one among several."""

from __future__ import annotations

import pytest

from testbed.sensitivity.rank.verdict import (
    CorrelationInterval,
    Validation,
    claim_p,
    correct_for_comparisons,
    two_sided_p,
)

NONE = CorrelationInterval(None, None, None)


def validation(
    by: str, p: float | None, value: float = 0.9, low: float = 0.5, high: float = 1.0, control: float = 0.01
) -> Validation:
    spearman = NONE if p is None else CorrelationInterval(value, low, high)
    measured = NONE if p is None else CorrelationInterval(value / 2, -1.0, 1.0)
    known = None if p is None else control
    return Validation(
        by, 9, measured, NONE, NONE, spearman, NONE, NONE, 3, known, False, "", p_value=p, p_adjusted=p
    ).judged(0.95)


def test_a_replicates_p_counts_the_rarer_side_twice() -> None:
    assert two_sided_p([0.5] * 99) == pytest.approx(2 / 100)
    assert two_sided_p([0.5] * 96 + [-0.1, 0.0, -0.2]) == pytest.approx(2 * 4 / 100)
    assert two_sided_p([-0.5] * 96 + [0.1, 0.0, 0.2]) == pytest.approx(2 * 4 / 100)
    assert two_sided_p([0.0] * 9) == 1
    assert two_sided_p([None, 0.5]) == 1
    assert two_sided_p([None]) is None


def test_agreement_must_be_neither_luck_nor_of_the_faults_drawn() -> None:
    assert claim_p(0.5, 0.01, 0.2) == 0.2
    assert claim_p(0.5, 0.1, 0.002) == 0.1
    assert claim_p(-0.5, 0.01, 0.99) == 0.01  # the other way round, the control says nothing
    assert claim_p(None, None, None) is None


def test_alone_a_verdict_speaks_of_no_correction() -> None:
    alone = validation("oracle", 0.01)
    assert alone.passed
    assert "corrected" not in alone.verdict
    assert correct_for_comparisons({"oracle": alone}, 0.95) == {"oracle": alone}


def test_among_several_it_takes_more() -> None:
    """Holm by hand: 0.004 x 4, 0.015 x 3, 0.03 x 2, 0.6; in that order, never below the one before."""
    before = {by: validation(by, p) for by, p in (("c", 0.03), ("a", 0.004), ("d", 0.6), ("b", 0.015))}
    after = correct_for_comparisons(before, 0.95)
    assert list(after) == ["c", "a", "d", "b"]
    adjusted = {by: each.p_adjusted for by, each in after.items()}
    assert adjusted == pytest.approx({"a": 0.016, "b": 0.045, "c": 0.06, "d": 0.6})
    assert {by for by, each in before.items() if each.passed} == {"a", "b", "c", "d"}
    assert {by for by, each in after.items() if each.passed} == {"a", "b"}
    assert all(each.comparisons == 4 for each in after.values())
    assert after["a"].verdict.endswith("; p 0.016, corrected for 4 comparisons).")
    assert after["c"].verdict.endswith(", but p is 0.06 once corrected for 4 comparisons: that may be luck.")
    assert {by: each.p_value for by, each in after.items()} == {by: each.p_value for by, each in before.items()}


def test_what_cannot_be_judged_is_no_comparison() -> None:
    after = correct_for_comparisons({"flat": validation("flat", None), "a": validation("a", 0.04)}, 0.95)
    assert (after["a"].p_adjusted, after["a"].comparisons, after["a"].passed) == (0.04, 1, True)
    assert after["flat"].p_adjusted is None
    assert "cannot be judged" in after["flat"].verdict


@pytest.mark.parametrize(
    ("p", "text"), [(0.01, "backwards ranks the components the wrong way round"), (0.04, "seems to")]
)
def test_the_wrong_way_round_is_a_claim_too(p: float, text: str) -> None:
    backwards = validation("backwards", p, -0.9, -1.0, -0.2, control=0.99)
    assert "ranks the components the wrong way round (" in backwards.verdict
    after = correct_for_comparisons({"backwards": backwards, "other": validation("other", 0.5)}, 0.95)
    assert text in after["backwards"].verdict
    assert "2 comparisons" in after["backwards"].verdict
    assert not after["backwards"].passed


def test_luck_and_width_are_told_as_before() -> None:
    after = correct_for_comparisons(
        {"lucky": validation("lucky", 0.2, control=0.2), "wide": validation("wide", 0.4, low=-0.1)}, 0.95
    )
    assert "too few components to tell it from luck" in after["lucky"].verdict
    assert "corrected for 2 comparisons), but" in after["lucky"].verdict
    assert "is not shown to rank the components as the campaign does" in after["wide"].verdict
