from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.outputs.choice import choose, choose_per_tier, stratified_order, too_small
from testbed.analysis.outputs.confidence import TierEdges, tiers_from_logits
from testbed.core.errors import UsageError

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)
SEEDS = st.integers(0, 2**32 - 1)


def names(labels):
    return [f"{label}/{number:04d}.png" for number, label in enumerate(labels)]


@given(LABELS, SEEDS, st.data())
def test_so_many_of_them_each_once_and_in_order(labels, seed, data):
    wanted = data.draw(st.integers(0, len(labels)))
    chosen = choose(names(labels), labels, wanted, seed, "test")
    assert len(chosen) == wanted
    assert (np.diff(chosen) > 0).all()
    assert not wanted or (chosen.min() >= 0 and chosen.max() < len(labels))


@given(LABELS, SEEDS)
def test_classes_have_their_share_of_every_beginning(labels, seed):
    """The mark of Webster's method, whatever breaks the ties: no image would be better placed in another class."""
    order, sizes = stratified_order(names(labels), labels, seed, "test"), Counter(labels.tolist())
    for wanted in range(len(labels) + 1):
        held = Counter(labels[order[:wanted]].tolist())
        if wanted <= len(sizes):
            assert set(held.values()) <= {1}
            continue
        assert held.keys() == sizes.keys()
        last_in = [Fraction(2 * held[c] - 1, 2 * sizes[c]) for c in sizes if held[c] > 1]
        next_out = [Fraction(2 * held[c] + 1, 2 * sizes[c]) for c in sizes if held[c] < sizes[c]]
        assert max(last_in, default=0) <= min(next_out, default=1)


@given(st.integers(1, 8), st.integers(1, 12), SEEDS, st.data())
def test_classes_of_one_size_differ_by_one_image_at_most(classes, size, seed, data):
    labels = np.repeat(np.arange(classes), size)  # as class folders lie
    wanted = data.draw(st.integers(0, len(labels)))
    held = np.bincount(labels[choose(names(labels), labels, wanted, seed, "test")], minlength=classes)
    assert held.max() - held.min() <= 1


@given(LABELS, SEEDS, st.randoms(use_true_random=False))
def test_it_does_not_matter_in_which_order_the_images_come(labels, seed, random):
    ids = names(labels)
    order = list(range(len(ids)))
    random.shuffle(order)
    shuffled = stratified_order([ids[i] for i in order], labels[order], seed, "test")
    assert [ids[order[p]] for p in shuffled] == [ids[p] for p in stratified_order(ids, labels, seed, "test")]


def test_another_seed_or_purpose_is_another_choice():
    labels = np.repeat(np.arange(10), 100)
    chosen = {
        (seed, purpose): tuple(choose(names(labels), labels, 50, seed, purpose))
        for seed in range(3)
        for purpose in "ab"
    }
    assert len(set(chosen.values())) == len(chosen)
    assert chosen[1, "a"] == tuple(choose(names(labels), labels, 50, 1, "a"))


def test_within_a_class_every_image_is_as_likely():
    """1,000 choices of 2 of 8: counts of each against 250, within five standard deviations of a binomial."""
    ids = names(np.zeros(8, int))
    seen = Counter(p for seed in range(1000) for p in choose(ids, np.zeros(8, int), 2, seed, "test").tolist())
    assert all(abs(count - 250) < 5 * (1000 * 0.25 * 0.75) ** 0.5 for count in seen.values())
    assert len(seen) == 8


def test_more_than_there_are():
    with pytest.raises(UsageError, match="4 images are asked for, and there are 3"):
        choose(["a", "b", "c"], [0, 0, 1], 4, 0, "test")


def test_per_tier_the_classes_of_the_tier():
    """Two tiers, sorted by class: 30 + 10 sure images of two classes, 20 of each that are not sure."""
    labels = np.repeat([0, 1], [50, 30])
    sure = np.r_[np.ones(30, bool), np.zeros(20, bool), np.ones(10, bool), np.zeros(20, bool)]
    logits = np.zeros((80, 2), np.float32)
    logits[np.arange(80), labels] = np.where(sure, 9, 0.1)
    tiers = tiers_from_logits(logits, labels, TierEdges((0.5, 1.0)))
    chosen = choose_per_tier(tiers, [6, 8], names(labels), labels, seed=3)
    held = Counter(zip(sure[chosen].tolist(), labels[chosen].tolist(), strict=True))
    assert held == {(False, 0): 3, (False, 1): 3, (True, 0): 6, (True, 1): 2}
    assert (np.diff(chosen[:6]) > 0).all()
    assert (np.diff(chosen[6:]) > 0).all()
    larger = choose_per_tier(tiers, [7, 20], names(labels), labels, seed=3)
    assert set(chosen) < set(larger)
    with pytest.raises(UsageError, match=r"tier 1 .* has 40 images and 41 were asked for"):
        choose_per_tier(tiers, [0, 41], names(labels), labels, seed=3)
    assert too_small(tiers, [40, 41]) == ["(0.5, 1] has 40 of the 41 images that were asked for"]
    at_most = choose_per_tier(tiers, [6, 41], names(labels), labels, seed=3, exact=False)
    assert set(at_most) == {*chosen[:6], *tiers.positions[1]}
    none = tiers_from_logits(logits, 1 - labels, TierEdges((0.5, 1.0)))
    with pytest.raises(UsageError, match="no tier has any of the images that were asked for: 0 of 80 are classified"):
        choose_per_tier(none, [6, 8], names(labels), labels, seed=3, exact=False)
