"""Failure rates from rates and exposures: by hand, and by how often their intervals hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from testbed.analysis.domains import Cells, Domains, Strata
from testbed.analysis.exposure import Contribution, contribution, exposures, summed, with_unsampled
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


def test_contributions_by_hand() -> None:
    rate = SimpleNamespace(rate=0.25, low=0.125, high=0.5, high_95=0.375, high_99=0.625)
    assert contribution(8.0, rate) == Contribution(8.0, value=2.0, low=1.0, high=4.0, high_95=3.0, high_99=5.0)


def test_of_sites_without_a_fault_nothing_is_known() -> None:
    found = with_unsampled(Contribution(8.0, value=2.0, low=1.0, high=4.0, high_95=3.0, high_99=5.0), 3.0)
    assert found == Contribution(11.0, value=2.0, low=1.0, high=7.0, high_95=6.0, high_99=8.0)


def test_sums_of_contributions_by_hand() -> None:
    parts = [Contribution(10.0, 5.0, 2.0, 9.0, 8.0, 11.0), Contribution(20.0, 7.0, 3.0, 10.0, 11.0, 15.0)]
    # roots of 9 + 16, both ways; of 9 + 16 and 36 + 64 to the bounds
    assert summed(parts) == Contribution(30.0, 12.0, 12.0 - 5.0, 12.0 + 5.0, 12.0 + 5.0, 12.0 + 10.0)
    assert summed(parts[:1]) == parts[0]


EXPOSURE = np.array([10.0, 40.0, 0.2])  # of sites 0, 1 and 2


def drawn(rng: np.random.Generator, population: np.ndarray, truth: np.ndarray, n: np.ndarray) -> tuple[Strata, Any]:
    """A sample of strata (rows) that reach over sites (columns): (H, S) populations and rates, (H,) faults drawn; the
    events are counted as a campaign's are."""
    seen = np.stack([rng.multivariate_hypergeometric(sizes, k) for sizes, k in zip(population, n, strict=True)])
    faulty = rng.binomial(seen, truth)
    strata = Strata(
        weight=population.sum(1).astype(float), clusters=n, rows=n, square_rows=n.astype(float), alike=np.arange(len(n))
    )
    cells = []
    for h, site in zip(*np.nonzero(seen), strict=True):
        hits = faulty[h, site]
        cells += [(site, h, n, event) for n, event in ((hits, 1), (seen[h, site] - hits, 0)) if n]
    return strata, np.array(cells, float)


@pytest.mark.parametrize("united", [False, True])
def test_the_total_is_the_sum_over_sites_and_its_interval_holds(united: bool) -> None:
    """Three sites, known exhaustively. United: each stratum holds faults of all of them, and a site of much exposure is a
    small part of it; else each is of one site."""
    rng = np.random.default_rng(0)
    if united:
        population = np.array([[1000, 60, 400], [3000, 300, 10]])
        truth = np.array([[0.3, 0.6, 0.9], [0.02, 0.2, 0.5]])
        n = np.array([150, 250])
    else:
        population = np.array([[1000, 0, 0], [3000, 0, 0], [0, 500, 0], [0, 0, 70]])
        truth = np.array([[0.3, 0, 0], [0.05, 0, 0], [0, 0.6, 0], [0, 0, 0.5]])
        n = np.array([30, 20, 25, 9])
    rates = (population * truth).sum(0) / population.sum(0)
    total, held, errors = float(EXPOSURE @ rates), 0, []
    for _ in range(300):
        strata, cells = drawn(rng, population, truth, n)
        site, stratum, count, events = cells.T
        ones = np.ones(len(cells))
        domains = Domains(strata, [0, 1, 2], Cells(site.astype(int), stratum.astype(int), ones, ones, count))
        found = contribution(EXPOSURE.sum(), domains.combined(events, EXPOSURE, 0.9))
        by_site = domains.estimates_of(events, 0.9)
        assert found.value == pytest.approx(sum(EXPOSURE[s] * by_site[s].rate for s in (0, 1, 2)))
        assert found.low < found.value < found.high
        held += found.low <= total <= found.high
        errors.append(found.value - total)
    assert held >= 0.9 * 300 - 3 * np.sqrt(0.9 * 0.1 * 300)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(300)
    assert np.mean([abs(e) for e in errors]) < 0.3 * total


def test_one_site_alone_has_its_own_interval() -> None:
    strata, cells = drawn(
        np.random.default_rng(1), np.array([[800], [90]]), np.array([[0.1], [0.4]]), np.array([40, 9])
    )
    _, stratum, count, events = cells.T
    ones = np.ones(len(cells))
    domains = Domains(strata, ["only"], Cells(np.zeros(len(cells), int), stratum.astype(int), ones, ones, count))
    assert vars(domains.combined(events, np.array([3.0]))) == pytest.approx(vars(domains.estimates_of(events)["only"]))
