"""A score that ranks as the truth does passes, one that does not fails, and luck is told from knowledge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from testbed.core.errors import UsageError
from testbed.core.site import Site, SiteTable
from testbed.models.config import ViTConfig, uniform
from testbed.sensitivity.circuits.components import components
from testbed.sensitivity.rank.measured import MeasuredRows, members, rates
from testbed.sensitivity.rank.protection import ideal, protection_curve, random_order
from testbed.sensitivity.rank.validate import MeasuredRates, kendall, spearman, top_overlap, validate

BLOCKS = 8


def config(**changes: Any) -> ViTConfig:
    base = {"depth": BLOCKS, "heads": 2, "mlp": 6, "image": 8, "patch": 4, "channels": 1, "width": 8, "classes": 3}
    return uniform(**(base | {"head_width": 4} | changes))


def campaign(true_rates: NDArray[np.float64], n: int = 400, images: int = 40, seed: int = 0) -> MeasuredRows:
    """Faults in one site per block, uniformly drawn, of images that are harder or easier alike."""
    rng = np.random.default_rng(seed)
    sites = tuple(Site(f"block.{b}.mlp.gelu", "activation", (5, 6)) for b in range(len(true_rates)))
    block = np.repeat(np.arange(len(true_rates)), n)
    image = rng.integers(images, size=len(block))
    ease = rng.normal(1, 0.1, images)[image]
    return MeasuredRows(
        site=np.array([site.name for site in sites], object)[block],
        index=rng.integers(30, size=len(block)),
        weight=np.ones(len(block)),
        stratum=block,
        pool=block,
        image=image,
        sdc1=rng.random(len(block)) < np.clip(true_rates[block] * ease, 0, 1),
        table=SiteTable("model", "id", "gated_replace", sites),
    )


SPREAD = np.linspace(0.02, 0.3, BLOCKS)


def truth_of(true_rates: NDArray[np.float64] = SPREAD, **more: Any) -> MeasuredRates:
    return MeasuredRates(campaign(true_rates, **more), components(config(), ["block"]), config())


def scored(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"block.{number}": float(value) for number, value in enumerate(values)}


def test_a_score_that_knows_passes() -> None:
    found = validate("oracle", scored(SPREAD**2), truth_of())
    assert found.passed
    assert found.spearman.value is not None
    assert found.spearman.low is not None
    assert found.spearman.value > 0.9
    assert found.spearman.low > 0.6
    assert found.control is not None
    assert found.control < 0.02
    assert found.verdict.startswith("oracle ranks the components as the campaign does (Spearman ")
    assert "95 % interval" in found.verdict


def test_the_opposite_score_is_the_wrong_way_round() -> None:
    found = validate("backwards", scored(-SPREAD), truth_of())
    assert not found.passed
    assert "the wrong way round" in found.verdict


def test_permuted_scores_do_not_pass() -> None:
    """The control: of 40 permutations of a perfect score, hardly any is taken for knowledge."""
    truth = truth_of()
    passed = [
        validate("permuted", scored(np.random.default_rng(seed).permutation(SPREAD)), truth).passed
        for seed in range(40)
    ]
    assert sum(passed) <= 4  # 5 % of them by the control alone


def test_with_few_components_luck_cannot_be_ruled_out() -> None:
    """Three components in the right order: one permutation in six does as well."""
    small = config(depth=3)
    truth = MeasuredRates(campaign(np.array([0.02, 0.2, 0.5])), components(small, ["block"]), small)
    found = validate("oracle", {f"block.{n}": float(n) for n in range(3)}, truth)
    assert not found.passed
    assert found.control == pytest.approx(1 / 6, abs=0.05)
    assert "too few components to tell it from luck" in found.verdict


def test_rates_that_do_not_differ_show_nothing() -> None:
    found = validate("oracle", scored(SPREAD), truth_of(np.full(BLOCKS, 0.1), n=60))
    assert not found.passed
    assert "not shown" in found.verdict


def test_equal_scores_cannot_be_judged() -> None:
    found = validate("flat", scored(np.ones(BLOCKS)), truth_of())
    assert (found.spearman.value, found.kendall.value, found.control) == (None, None, None)
    assert "cannot be judged" in found.verdict


def test_intervals_of_the_rates_cover_them() -> None:
    """Of 8 blocks x 12 campaigns, 95 % intervals cover the true rate nearly always."""
    hits = 0
    for seed in range(12):
        truth = truth_of(seed=seed, images=2000)
        low, high = truth.intervals(0.95)
        hits += int(((low <= SPREAD) & (high >= SPREAD)).sum())
    assert hits >= 0.88 * 12 * BLOCKS


def test_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 9).astype(float), rng.integers(0, 6, 9).astype(float)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
        assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic)
    assert top_overlap(np.array([3.0, 2, 1, 0]), np.array([3.0, 0, 1, 2]), 2) == 0.5


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"half has no score of block\.4"):
        validate("half", scored(SPREAD[:4]), truth_of())
    small = config(depth=2)
    with pytest.raises(UsageError, match="struck 2 of these 2 components; a ranking needs three"):
        MeasuredRates(campaign(np.array([0.1, 0.2])), components(small, ["block"]), small)


# ---- which element belongs to which component


def rows_at(site: Site) -> MeasuredRows:
    """Every element of a site once."""
    n = site.elements
    table = SiteTable("model", "id", "gated_replace", (site,))
    none = np.zeros(n, np.int64)
    return MeasuredRows(
        np.full(n, site.name, object), np.arange(n), np.ones(n), none, none, none, np.zeros(n, bool), table
    )


@pytest.mark.parametrize(
    ("site", "axis", "width"),
    [
        (Site("block.0.attn.q", "activation", (2, 5, 4)), 0, 1),
        (Site("block.0.attn.softmax", "activation", (2, 5, 5)), 0, 1),
        (Site("block.0.attn.context", "activation", (5, 8)), 1, 4),
        (Site("block.0.mlp.gelu", "activation", (5, 6)), 1, 1),
    ],
)
def test_members_are_slices_of_the_site(site: Site, axis: int, width: int) -> None:
    one = config(depth=1)
    kind = "neuron" if "mlp" in site.name else "head"
    parts = components(one, [kind])
    found = members(rows_at(site), parts, one)
    where = np.indices(site.shape)[axis].reshape(-1) // width
    np.testing.assert_array_equal(found, [where == part.number for part in parts])


def test_differential_attention_has_two_maps_per_head() -> None:
    one = config(depth=1, attention="differential")
    site = Site("block.0.attn.softmax", "activation", (4, 5, 5))
    found = members(rows_at(site), components(one, ["head"]), one)
    maps = np.indices(site.shape)[0].reshape(-1)
    np.testing.assert_array_equal(found, [(maps == 0) | (maps == 2), (maps == 1) | (maps == 3)])


def test_sites_outside_the_blocks_and_residuals_belong_to_no_head() -> None:
    one = config(depth=1)
    for name in ("embed", "block.0.attn.residual", "block.0.norm1"):
        assert not members(rows_at(Site(name, "activation", (5, 8))), components(one, ["head", "neuron"]), one).any()
    assert members(rows_at(Site("block.0.norm1", "activation", (5, 8))), components(one, ["block"]), one).all()


def test_a_rate_weighs_by_population() -> None:
    rows = campaign(np.array([0.5, 0.5]))
    object.__setattr__(rows, "weight", np.where(rows.sdc1, 3.0, 1.0))
    found = rates(members(rows, components(config(depth=2), ["block"]), config(depth=2)), rows)
    for block in range(2):
        mine = np.array([site == f"block.{block}.mlp.gelu" for site in rows.site])
        hit = rows.sdc1[mine].sum()
        assert found[block] == pytest.approx(3 * hit / (3 * hit + (mine.sum() - hit)))


# ---- selective protection


def test_protecting_the_right_ones_first_removes_most() -> None:
    parts = np.array([5.0, 1.0, 3.0, 1.0])
    best = ideal(parts)
    np.testing.assert_allclose(best.removed, [0, 0.5, 0.8, 0.9, 1.0])
    np.testing.assert_allclose(best.protected, [0, 0.25, 0.5, 0.75, 1])
    worst = protection_curve("backwards", -parts, parts)
    np.testing.assert_allclose(worst.removed, [0, 0.1, 0.2, 0.5, 1.0])
    chance = random_order(parts)
    np.testing.assert_allclose(chance.removed, chance.protected)
    assert chance.area == pytest.approx(0.5)
    assert worst.area < 0.5 < best.area


def test_a_random_order_is_the_average_of_all_orders() -> None:
    parts, rng = np.array([5.0, 1.0, 3.0, 1.0, 0.0]), np.random.default_rng(0)
    curves = [protection_curve("", rng.permutation(5).astype(float), parts).removed for _ in range(4000)]
    np.testing.assert_allclose(np.mean(curves, axis=0), random_order(parts).removed, atol=0.02)


def test_nothing_to_protect_against_is_told() -> None:
    with pytest.raises(UsageError, match="no SDC-1 was measured"):
        ideal(np.zeros(3))
