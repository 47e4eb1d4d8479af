"""Failure rates from rates and exposures: by hand, and by how often their intervals hold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.exposure import Contribution, contribution, exposed_weights, exposures
from testbed.analysis.survey import SurveyDesign
from testbed.core.errors import UsageError
from testbed.core.site import Site

SITES = [
    Site("block.0.attn.q", "activation", (2, 3, 4)),
    Site("block.1.attn.q", "activation", (2, 3, 4), "int8"),
    Site("head", "activation", (10,)),
]


def test_the_last_pattern_that_matches_a_site_counts() -> None:
    assert exposures(SITES, {"*": 1.0, "block.*": 2.0, "block.1.*": 0}) == {
        "block.0.attn.q": 2.0,
        "block.1.attn.q": 0.0,
        "head": 1.0,
    }
    assert exposures(SITES, {"head": 3.0}) == {"head": 3.0}


def test_a_weight_per_bit_is_times_the_bits_of_the_tensor() -> None:
    assert exposures(SITES, {"*": 0.5}, per_bit=True) == {
        "block.0.attn.q": 0.5 * 24 * 32,
        "block.1.attn.q": 0.5 * 24 * 8,
        "head": 0.5 * 10 * 32,
    }


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="must be a number from 0 up"):
        exposures(SITES, {"*": weight})


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no site that was struck matches 'tail'"):
        exposures(SITES, {"tail": 1.0})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 1000)), min_size=1, max_size=20))
def test_strata_share_their_sites_exposure_by_population(strata: list[tuple[str, int]]) -> None:
    exposure = {"a": 3.0, "b": 0.0}
    site, population = zip(*strata, strict=True)
    weights = exposed_weights(population, site, exposure)
    for name in set(site):
        mine = np.array([one == name for one in site])
        sizes = np.array(population)[mine]
        np.testing.assert_allclose(weights[mine], exposure.get(name, 0.0) * sizes / sizes.sum())


def test_contributions_by_hand() -> None:
    rate = SimpleNamespace(rate=0.25, low=0.125, high=0.5)
    assert contribution(8.0, rate) == Contribution(exposure=8.0, value=2.0, low=1.0, high=4.0)


def test_the_total_is_the_sum_over_sites_and_its_interval_holds() -> None:
    """Two sites of three strata, known exhaustively; each campaign draws a few faults per stratum."""
    rng = np.random.default_rng(0)
    site = np.array(["a", "a", "b"])
    population, truth = np.array([1000, 3000, 500]), np.array([0.3, 0.05, 0.6])
    exposure = {"a": 10.0, "b": 40.0}
    of_site = {"a": (1000 * 0.3 + 3000 * 0.05) / 4000, "b": 0.6}
    total = sum(exposure[name] * rate for name, rate in of_site.items())
    weights, drawn, held = exposed_weights(population, site, exposure), np.array([30, 20, 25]), 0
    stratum = np.repeat(np.arange(3), drawn)
    for _ in range(300):
        y = rng.random(len(stratum)) < truth[stratum]
        design = SurveyDesign(stratum, weights[stratum], np.arange(len(stratum)))
        found = contribution(50.0, design.estimate(y, 0.9))
        by_hand = sum(
            exposure[name] * sum(population[h] * y[stratum == h].mean() for h in hs) / sum(population[h] for h in hs)
            for name, hs in (("a", (0, 1)), ("b", (2,)))
        )
        assert found.value == pytest.approx(by_hand)
        held += found.low <= total <= found.high
    assert held >= 0.9 * 300 - 3 * np.sqrt(0.9 * 0.1 * 300)
