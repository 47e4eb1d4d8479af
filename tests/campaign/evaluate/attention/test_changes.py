"""Incremental evaluation of faults inside attention: within its bound, and with the outcomes of exact evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.campaign.evaluate.attention.changes import CHANGES
from testbed.campaign.evaluate.attention.graphs import KINDS, projection_weight, stages
from testbed.campaign.evaluate.attention.rows import FaultyElements, RowPath
from testbed.campaign.evaluate.attention.stage_engines import StageEngines
from testbed.campaign.evaluate.contract import Injections
from testbed.core.outcome import How
from tests.support.attention_cases import Case, assert_same_outcomes, case, joined, same_bits, together

EXACT = {How.WHOLE, How.SUFFIX, How.ROWS, How.UNCHANGED}


def _incremental(subject: Case, kind: str, injections: Injections) -> tuple[NDArray, NDArray, NDArray]:
    """(found, wanted, bound) of the strikes that the analysis covers, near a decision or not."""
    target = subject.target
    weight = projection_weight(target.plain, target.sites)
    assert weight is not None
    injected = FaultyElements(kind, injections.image, injections.ports.index[:, 0], injections.ports.faulty[:, 0])
    with StageEngines(stages(target.plain, target.sites), target.open, subject.sizes) as parts:
        rows = RowPath(target.sites, parts)
        columns, before = rows.columns(injected, subject.goldens), rows.golden_columns(injected, subject.goldens)
    changes = CHANGES[kind](injected, columns, before, subject.goldens, weight, target.sites)
    usable = np.flatnonzero(changes.usable)
    found = changes.outputs(usable, injections.image[usable], subject.whole.golden)
    return found, together(subject.whole, injections.take(usable))[0], changes.bound[usable]


def _check_outcomes(subject: Case, injections: Injections, atol: float, rtol: float) -> NDArray[np.int8]:
    """Also that what is not incremental is exact, and what is lies within its bound."""
    path = dict.fromkeys(KINDS, "rows") | {"k": "incremental", "v": "incremental"}
    found, how, bound = together(subject.evaluator(path, atol, rtol), injections)
    wanted = together(subject.whole, injections)[0]
    assert_same_outcomes(subject, injections, found, atol, rtol)
    exact = how != How.INCREMENTAL
    assert same_bits(found[exact], wanted[exact])
    off = np.abs(found[~exact].astype(np.float64) - wanted[~exact]).max(axis=(1, 2), initial=0)
    assert (off <= bound[~exact]).all()
    return how


class TestIncremental:
    @pytest.mark.parametrize("kind", ["k", "v"])
    def test_results_lie_within_their_bound(self, each_case: Case, kind: str) -> None:
        found, wanted, bound = _incremental(each_case, kind, each_case.flips(kind, 800, seed=1))
        assert len(found) > 500
        off = np.abs(found.astype(np.float64) - wanted).max(axis=(1, 2))
        assert (off <= bound).all()
        assert np.quantile(off / bound, 0.99) < 0.5  # a margin, and
        assert (off / bound).max() > 0.005  # not one that says nothing

    @pytest.mark.parametrize(("kind", "value"), [("v", 40.0), ("v", -3e4), ("k", 5.0), ("k", -40.0)])
    def test_results_of_large_changes_lie_within_their_bound(self, each_case: Case, kind: str, value: float) -> None:
        found, wanted, bound = _incremental(each_case, kind, each_case.writes(kind, value, 60))
        assert (np.abs(found.astype(np.float64) - wanted).max(axis=(1, 2), initial=0) <= bound).all()

    @pytest.mark.parametrize(("atol", "rtol"), [(1e-6, 1e-5), (2e-7, 0.0), (1e-4, 1e-3)])
    def test_outcomes_are_those_of_exact_evaluation(self, each_case: Case, atol: float, rtol: float) -> None:
        injections = joined(*(each_case.flips(kind, 125, seed=2) for kind in ("k", "v")))
        how = _check_outcomes(each_case, injections, atol, rtol)
        assert (how == How.INCREMENTAL).any()

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["ort-cpu", "openvino"])
    def test_outcomes_of_20000_faults_are_those_of_exact_evaluation(self, backend: str) -> None:
        for seed, loudness in enumerate((1.0, 3.0)):
            subject = case(loudness=loudness, backend=backend)
            shares = dict.fromkeys(KINDS, 400) | {"k": 4000, "v": 4000}
            injections = joined(*(subject.flips(kind, n, seed) for kind, n in shares.items()))
            how = _check_outcomes(subject, injections, 1e-6, 1e-5)
            assert (how == How.INCREMENTAL).mean() > 0.4

    def test_marks_and_bounds_tell_incremental_rows_from_exact_ones(self, plain_case: Case) -> None:
        evaluator = plain_case.evaluator({"v": "incremental"})
        injections = plain_case.flips("v", 300)
        _, how, bound = together(evaluator, injections)
        assert ((bound > 0) == (how == How.INCREMENTAL)).all()
        counts = evaluator.counts()
        assert counts.injections == 300
        assert counts.how["incremental"] == (how == How.INCREMENTAL).sum()
        fallbacks = counts.near_decision + counts.not_covered
        assert fallbacks == (how != How.INCREMENTAL).sum()
        assert counts.fallback_share == pytest.approx(fallbacks / 300)

    @pytest.mark.parametrize("kind", ["k", "v"])
    def test_a_tolerance_within_the_bound_of_the_change_is_decided_exactly(self, plain_case: Case, kind: str) -> None:
        evaluator = plain_case.evaluator({kind: "incremental"}, rtol=0.0)
        injections = plain_case.flips(kind, 200)
        outputs, how, bound = together(evaluator, injections)
        largest = np.abs(outputs - plain_case.whole.golden[injections.image]).max(axis=(1, 2))
        places = np.flatnonzero((how == How.INCREMENTAL) & (largest > 4 * bound))[:12]
        assert len(places)
        for place in places:
            for side in (-0.5, 0.5):
                atol = float(largest[place] + side * bound[place])
                close = plain_case.evaluator({kind: "incremental"}, atol=atol, rtol=0.0)
                assert together(close, injections.take(places[places == place]))[1][0] in EXACT

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_row_depends_on_the_company_it_is_evaluated_in(self, plain_case: Case, kind: str) -> None:
        evaluator = plain_case.evaluator(dict.fromkeys(KINDS, "rows") | {"k": "incremental", "v": "incremental"})
        injections = plain_case.flips(kind, 60)
        outputs, how, bound = together(evaluator, injections)
        for row in range(0, 60, 7):
            alone = together(evaluator, injections.take(np.array([row])))
            assert same_bits(alone[0][0], outputs[row])
            assert (alone[1][0], alone[2][0]) == (how[row], bound[row])
