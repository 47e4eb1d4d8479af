"""Whether the rank of the true class predicts the outcome: against scikit-learn and the campaign's own rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from testbed.campaign.run import Run
from testbed.sensitivity.campaign_lens.prediction import (
    area_under,
    band_rates,
    campaign_rate,
    predictions,
    rank_bands,
    ranks_of,
)
from testbed.sensitivity.campaign_lens.rows import BEHIND, LensRows


@pytest.mark.parametrize(
    ("classes", "bands"),
    [
        (2, [(0, 0), (1, 1)]),
        (3, [(0, 0), (1, 1), (2, 2)]),
        (10, [(0, 0), (1, 1), (2, 2), (3, 5), (6, 9)]),
        (1000, [(0, 0), (1, 1), (2, 250), (251, 500), (501, 999)]),
    ],
)
def test_bands_hold_every_rank_once(classes: int, bands: list[tuple[int, int]]) -> None:
    assert rank_bands(classes) == bands


def random_ranks(rows: LensRows, seed: int) -> np.ndarray:
    """Ranks that images of more than average harm have the higher ones of."""
    random = np.random.default_rng(seed)
    golden = random.integers(0, 10, (int(rows.image.max()) + 1, int(rows.entry.max()) + 1))
    return ranks_of(rows, golden)


def test_areas_are_scikit_learns(rows_of_models: list[LensRows]) -> None:
    for rows in rows_of_models:
        ranks = random_ranks(rows, 5)
        seen = ranks >= 0
        for entry in predictions(rows, ranks, 0.95, 0):
            inside = seen & (True if entry.bit_class is None else rows.bit_class == entry.bit_class)
            events = getattr(rows, entry.event)[inside]
            assert (entry.events, entry.n) == (events.sum(), len(np.unique(rows.fault_id[inside])))
            if entry.auc is None:
                assert min(events.sum(), (~events).sum()) < 5
                continue
            expected = roc_auc_score(events, ranks[inside], sample_weight=rows.weight[inside])
            assert entry.auc.value == pytest.approx(expected)
            assert entry.auc.low <= entry.auc.value <= entry.auc.high


def test_the_interval_knows_that_images_are_clusters(rows_of_models: list[LensRows]) -> None:
    """Ten copies of every row tell no more than one, as the images are the same."""
    rows = rows_of_models[0]
    rows = rows.take(rows.entry != BEHIND)
    ranks = random_ranks(rows, 6)
    copies = np.tile(np.arange(len(rows)), 10)
    more = replace(rows.take(copies), fault_id=np.arange(len(copies)))
    one, ten = (
        area_under(part, score, part.outside, np.zeros(len(part), np.int64), 0.95, 0)
        for part, score in ((rows, ranks), (more, ranks[copies]))
    )
    assert one is not None
    assert ten is not None
    assert (one.value, one.low, one.high) == pytest.approx((ten.value, ten.low, ten.high))
    assert one.high > one.low


def test_a_rank_that_decides_is_seen_and_one_of_chance_is_not(rows_of_models: list[LensRows]) -> None:
    rows = rows_of_models[0]
    rows = rows.take(rows.entry != BEHIND)
    none = np.zeros(len(rows), np.int64)
    decides = area_under(rows, rows.outside.astype(np.int64), rows.outside, none, 0.95, 0)
    assert decides is not None
    assert (decides.value, decides.low, decides.high) == (1, 1, 1)
    flat = area_under(rows, none, rows.outside, none, 0.95, 0)
    assert flat is not None
    assert (flat.value, flat.low, flat.high) == (0.5, 0.5, 0.5)


def test_rates_are_the_campaigns_own(opened: Run, rows_of_models: list[LensRows]) -> None:
    rows = rows_of_models[0]
    for event in ("sdc1", "outside"):
        table = opened.rates(by=(), measure=event)
        whole = table[(table["target"] == "model") & (table["where"] == "activation")].iloc[0]
        everything = replace(rows, entry=np.maximum(rows.entry, 0))  # as if nothing were behind the last block
        rate = campaign_rate(everything, event, 0.95)
        assert (rate.value, rate.low, rate.high) == pytest.approx(
            (float(whole.estimate), float(whole.low), float(whole.high))
        )
        assert (rate.n, rate.faults) == (whole.n, whole.faults)


def test_bands_add_up_to_the_rate(rows_of_models: list[LensRows]) -> None:
    rows = rows_of_models[0]
    ranks = random_ranks(rows, 7)
    bands = [band for band in band_rates(rows, ranks, 10, 0.95) if band.bit_class is None]
    assert sum(band.sdc1.n for band in bands) == (ranks >= 0).sum()
    for band in bands:
        inside = (ranks >= band.low) & (ranks <= band.high)
        assert band.sdc1.value == pytest.approx(np.average(rows.sdc1[inside], weights=rows.weight[inside]))
        assert band.outside.low <= band.outside.value <= band.outside.high
