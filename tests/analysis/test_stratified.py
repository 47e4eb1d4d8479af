from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.stats import clopper_pearson
from testbed.analysis.stratified import SamplingFrame, StratumTally, domain_rates
from testbed.analysis.survey import Estimate, SurveyDesign
from testbed.core.errors import UsageError


def counted(seed, images=1):
    """A frame, the tally of a sample from it, and the sample's rows: y, stratum, weight, fault."""
    rng = np.random.default_rng(seed)
    strata = int(rng.integers(1, 8))
    population = rng.integers(4, 60, strata)
    n = np.array([rng.integers(2, size + 1) for size in population])
    stratum = np.repeat(np.arange(strata), n)
    y = rng.random((len(stratum), images)) < rng.choice([0, 0.1, 0.5, 1], strata)[stratum, None]
    values = y.mean(1)
    domain = np.unique(rng.integers(0, 3, strata), return_inverse=True)[1]
    tally = StratumTally(
        n.astype(float), np.bincount(stratum, values).astype(float), np.bincount(stratum, values**2).astype(float)
    )
    fault = np.repeat(np.arange(len(stratum)), images)
    return SamplingFrame.of(population, domain), tally, (y.ravel(), stratum[fault], population[stratum[fault]], fault)


def by_domain(design: SurveyDesign, y, domain, confidence: float = 0.95) -> Iterator[tuple[int, Estimate]]:
    for label, estimate in design.by_group(y, domain, confidence).items():
        yield int(cast(Any, label)), estimate


@given(st.integers(0, 2**32), st.sampled_from([0.8, 0.95]))
def test_of_whole_strata_it_is_the_survey_estimate(seed, confidence):
    frame, tally, (y, stratum, weight, fault) = counted(seed)
    design = SurveyDesign(stratum, weight, fault, finite_population=True)
    rates = domain_rates(frame, tally, confidence)
    for domain, wanted in by_domain(design, y, frame.domain[stratum], confidence):
        found = [part[domain] for part in (rates.rate, rates.low, rates.high)]
        assert found == pytest.approx([wanted.rate, wanted.low, wanted.high], abs=1e-9)
        assert rates.error[domain] == pytest.approx(
            wanted.standard_error, abs=1e-7
        )  # a root: of rounding, where it is 0


@given(st.integers(0, 2**32))
def test_faults_of_several_images_have_the_same_rate_and_no_narrower_an_interval(seed):
    frame, tally, (y, stratum, weight, fault) = counted(seed, images=4)
    design = SurveyDesign(stratum, weight, fault, finite_population=True)
    rates = domain_rates(frame, tally, 0.95)
    for domain, wanted in by_domain(design, y, frame.domain[stratum]):
        assert rates.rate[domain] == pytest.approx(wanted.rate, abs=1e-9)
        assert rates.error[domain] == pytest.approx(wanted.standard_error, abs=1e-7)
        assert rates.low[domain] <= wanted.low + 1e-9
        assert rates.high[domain] >= wanted.high - 1e-9


def test_many_samples_at_once_are_the_same_as_one_by_one():
    frame = SamplingFrame.of([50, 500, 70], [0, 0, 1])
    n, events = np.array([[5, 9, 20], [8, 50, 70]]), np.array([[0, 3, 20], [8, 0, 31]])
    levels = np.array([[0.9, 0.95], [0.99, 0.5]])
    together = domain_rates(frame, StratumTally.of_events(n, events), levels)
    for i in range(2):
        for d in range(2):
            alone = domain_rates(frame, StratumTally.of_events(n[i], events[i]), levels[i, d])
            assert (together.low[i, d], together.high[i, d]) == (alone.low[d], alone.high[d])


def test_without_an_event_it_is_clopper_pearsons_of_the_weights():
    rates = domain_rates(SamplingFrame.of([10**9, 10**9], [0, 0]), StratumTally.of_events([50, 50], [0, 0]), 0.95)
    assert (rates.low[0], rates.high[0]) == pytest.approx((0, clopper_pearson(0, 100).high), rel=1e-6)


def test_a_domain_that_was_drawn_completely_is_known():
    rates = domain_rates(SamplingFrame.of([4, 6], [0, 0]), StratumTally.of_events([4, 6], [1, 6]), 0.95)
    assert (rates.low[0], rates.rate[0], rates.high[0]) == pytest.approx((0.7, 0.7, 0.7), abs=1e-12)


def test_a_stratum_that_was_not_drawn_from_may_have_any_rate():
    rates = domain_rates(
        SamplingFrame.of([1, 10**6, 9], [0, 0, 1]), StratumTally.of_events([0, 1000, 9], [0, 500, 0]), 0.95
    )
    assert (rates.low[0], rates.high[0]) == (0, 1)
    assert rates.high[1] == pytest.approx(0, abs=1e-12)


def test_a_stratum_of_one_fault_is_as_uncertain_as_it_can_be():
    several = domain_rates(SamplingFrame.of([500, 500], [0, 0]), StratumTally.of_events([2, 100], [0, 50]), 0.95)
    single = domain_rates(SamplingFrame.of([500, 500], [0, 0]), StratumTally.of_events([1, 100], [0, 50]), 0.95)
    assert single.half_width > several.half_width


def test_classes_are_the_strata_of_a_domain_that_are_alike():
    frame = SamplingFrame.of([1, 2, 4, 8, 16, 32], list("aabbba"), ["x", "y", "y", "x", "y", "y"])
    assert frame.classes.population.tolist() == [1, 34, 8, 20]
    assert frame.classes.domain.tolist() == [0, 0, 1, 1]
    assert frame.classes.alike.tolist() == [0, 1, 0, 1]
    assert frame.class_of.tolist() == [0, 1, 3, 2, 3, 1]
    assert frame.share.tolist() == pytest.approx([1 / 35, 2 / 35, 4 / 28, 8 / 28, 16 / 28, 32 / 35])


def test_an_empty_stratum_is_refused():
    with pytest.raises(UsageError, match="a stratum without a fault"):
        SamplingFrame.of([3, 0], [0, 0])
