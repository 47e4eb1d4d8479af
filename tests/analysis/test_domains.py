"""The estimator on counts of alike clusters, against the same estimator on rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.domains import Cells, Domains, Strata
from testbed.analysis.survey import SurveyDesign
from testbed.core.errors import UsageError


def campaign(seed):
    """y, stratum, weight, cluster, group, collapse of a sample whose clusters have few images, so that many are alike; and
    of which a group holds all of a stratum's rows, or some of each cluster's."""
    rng = np.random.default_rng(seed)
    strata = rng.integers(1, 6)
    clusters = rng.integers(1, 30, strata)
    stratum_of = np.repeat(np.arange(strata), clusters)
    images = rng.integers(1, 4, strata)[stratum_of] if rng.random() < 0.5 else rng.integers(1, 4, len(stratum_of))
    cluster = np.repeat(np.arange(len(stratum_of)), images)
    stratum = stratum_of[cluster]
    y = rng.random(len(cluster)) < rng.choice([0, 0.05, 0.5, 1], strata)[stratum]
    weight, collapse = rng.integers(30, 500, strata)[stratum], rng.integers(0, 2, strata)[stratum]
    group = stratum % 2 if rng.random() < 0.5 else rng.integers(0, 2, len(y))
    return y, stratum, weight, cluster, group, collapse


def counted(y, stratum, weight, cluster, group, collapse, finite):
    """Strata and cells with nothing kept of single clusters, counted in plain Python."""
    numbers = sorted(set(stratum.tolist()))
    facts = {h: [0, 0, 0] for h in numbers}
    cells: dict[tuple[int, int, int, int, int], int] = {}
    for fault in np.unique(cluster):
        mine = cluster == fault
        h, rows = int(stratum[mine][0]), int(mine.sum())
        facts[h] = [facts[h][0] + 1, facts[h][1] + rows, facts[h][2] + rows**2]
        for label in np.unique(group[mine]):
            part = mine & (group == label)
            key = (int(label), numbers.index(h), int(part.sum()), rows, int(y[part].sum()))
            cells[key] = cells.get(key, 0) + 1
    of_stratum = [np.flatnonzero(stratum == h)[0] for h in numbers]
    counts_of, rows_of, squares = (np.array(column) for column in zip(*facts.values(), strict=True))
    strata = Strata(
        weight[of_stratum].astype(float), counts_of, rows_of, squares.astype(float), collapse[of_stratum], finite
    )
    labels = sorted({key[0] for key in cells})
    keys = np.array(list(cells), float)[:: -1 if len(cells) % 2 else 1]  # in any order
    counts = np.array(list(cells.values()), float)[:: -1 if len(cells) % 2 else 1]
    positions = np.searchsorted(labels, keys[:, 0])
    domains = Domains(strata, labels, Cells(positions, keys[:, 1].astype(int), keys[:, 2], keys[:, 3], counts))
    return domains, keys[:, 4], len(cells)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.8, 0.95]))
def test_counts_of_alike_clusters_give_what_the_rows_give(seed, finite, confidence):
    y, stratum, weight, cluster, group, collapse = campaign(seed)
    domains, events, _ = counted(y, stratum, weight, cluster, group, collapse, finite)
    from_counts = domains.estimates_of(events, confidence)
    from_rows = SurveyDesign(stratum, weight, cluster, collapse, finite).by_group(y, group, confidence)
    assert list(from_counts) == list(from_rows)
    for label, wanted in from_rows.items():
        assert vars(from_counts[label]) == pytest.approx(vars(wanted), rel=1e-9, abs=1e-9)


def test_ten_thousand_faults_are_a_handful_of_cells():
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(10_000), 2)
    stratum, group = cluster // 5000, np.tile([0, 1], 10_000)
    y = rng.random(20_000) < 0.1
    weight = np.array([7e4, 9e5])[stratum]
    domains, events, cells = counted(y, stratum, weight, cluster, group, 0 * stratum, False)
    assert cells == 8  # group x stratum x struck or not
    wanted = SurveyDesign(stratum, weight, cluster).by_group(y, group)
    for label, found in domains.estimates_of(events).items():
        assert vars(found) == pytest.approx(vars(wanted[label]), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.array([0.0, 1])}, "a finite number above 0"),
        ({"weight": np.array([np.nan, 1])}, "a finite number above 0"),
        ({"weight": np.array([1.0, 9]), "finite_population": True}, "more clusters were drawn"),
        ({"weight": np.zeros(0)}, "no rows"),
    ],
)
def test_what_is_no_sample_is_refused(change, message):
    two = np.array([2, 2])
    with pytest.raises(UsageError, match=message):
        Strata(
            **{"weight": np.ones(2), "clusters": two, "rows": two, "square_rows": two.astype(float), "alike": two}
            | change
        )
