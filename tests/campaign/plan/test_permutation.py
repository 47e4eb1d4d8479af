"""Draws in rounds: a permutation of each group's faults, uniform, the same whichever part of it is asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from testbed.campaign.plan.draw import Stratum, strata
from testbed.campaign.plan.groups import grouped, values_of
from testbed.campaign.plan.permutation import draw_of, drawn_places, members_of
from testbed.campaign.spec.faults import FaultSpec
from testbed.campaign.spec.stop import dimensions
from testbed.core.errors import UsageError
from testbed.core.site import Site, SiteTable

TABLE = SiteTable(
    "model",
    "id",
    "gated_replace",
    (
        Site("block.0.mlp.fc1", "activation", (5, 4)),
        Site("block.1.mlp.fc1", "activation", (5, 4)),
        Site("head", "activation", (3,)),
    ),
)
TIERS = [["a", "b"], [], ["c", "d", "e"]]


def all_of(by: str, **section: Any) -> list:
    values: dict[str, Any] = {"target": "model", "where": "activation", "ops": ("flip",), **section}
    spec = FaultSpec(**values)
    return grouped(strata(spec, TABLE, TIERS), dimensions(by))


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("population", [1, 2, 100, 1 << 16, (1 << 16) + 1, 300_000, 1 << 18])
def test_all_draws_together_are_all_places_once(population: int) -> None:
    places = drawn_places(population, 7, "group", 0, population)
    assert (np.sort(places) == np.arange(population)).all()


@given(st.integers(1, 1 << 62), st.integers(0, 2**32), st.integers(0, 50), st.integers(0, 50))
def test_a_range_of_draws_is_part_of_the_whole(population: int, seed: int, start: int, more: int) -> None:
    start, stop = min(start, population), min(start + more, population)
    whole = drawn_places(population, seed, "group", 0, stop)
    assert (drawn_places(population, seed, "group", start, stop) == whole[start:]).all()
    assert ((whole >= 0) & (whole < population)).all()
    assert len(set(whole.tolist())) == stop


@pytest.mark.parametrize("population", [20, 70_000, 100_000])
@pytest.mark.parametrize("number", [0, 5])
def test_each_draw_is_uniform_over_the_seeds(population: int, number: int) -> None:
    bins = 20
    found = [int(drawn_places(population, seed, "group", number, number + 1)[0]) for seed in range(2000)]
    assert chisquare(np.bincount(np.array(found) * bins // population, minlength=bins)).pvalue > 1e-3


@pytest.mark.parametrize("population", [70_000, 10**12])
def test_the_draws_of_one_seed_are_uniform_and_pairs_are_too(population: int) -> None:
    places = drawn_places(population, 3, "group", 0, 20_000)
    bins = (places * 16) // population
    assert chisquare(np.bincount(bins, minlength=16)).pvalue > 1e-3
    assert chisquare(np.bincount(bins[:-1] * 16 + bins[1:], minlength=256)).pvalue > 1e-3


def test_names_and_seeds_draw_apart() -> None:
    draws = {tuple(drawn_places(10**6, seed, name, 0, 5)) for seed in (0, 1) for name in ("a", "b")}
    assert len(draws) == 4


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="no draws 3 to 11 of 10"):
        drawn_places(10, 0, "group", 3, 11)
    with pytest.raises(UsageError, match="more faults than can be drawn from in rounds"):
        drawn_places(1 << 63, 0, "group", 0, 1)


# --- groups ----------------------------------------------------------------------------------------------------------


def test_strata_are_put_together_along_the_dimensions_asked_for() -> None:
    assert [(g.values, g.population) for g in all_of("block", bits=(3, 30))] == [
        ((0,), 20 * 5 * 2),
        ((1,), 20 * 5 * 2),
        ((None,), 3 * 5 * 2),
    ]
    groups = all_of("kind x bit_class", bits=(3, 30, 31), ops=("flip", "random"))
    assert [(g.model.op, g.values) for g in groups][:4] == [
        ("flip", ("fc1", "mantissa_low")),
        ("flip", ("fc1", "exponent_top")),
        ("flip", ("fc1", "sign")),
        ("random", ("fc1", "word")),
    ]
    assert sum(g.population for g in groups) == 43 * 5 * 4
    assert len({g.name for g in groups}) == len(groups)


def test_all_is_one_group_per_fault_model() -> None:
    (only,) = all_of("all")
    assert (only.values, only.population, len(only.members)) == ((), 43 * 5 * 32, 3 * 32 * 2)


def test_places_of_a_group_are_the_faults_of_its_members() -> None:
    (group,) = all_of("all", bits=(3, 30))
    member, place = members_of(group, np.arange(group.population))
    found: Counter[Any] = Counter()
    for i, at in zip(member.tolist(), place.tolist(), strict=True):
        stratum: Stratum = group.members[i][1]
        draw = draw_of(group, 0, stratum, at, seed=1)
        found[stratum.site.name, stratum.bit, draw.masks, draw.image_id, draw.index] += 1
        assert draw.image_id in stratum.images
    assert set(found.values()) == {1}
    assert len(found) == 43 * 5 * 2


def test_random_words_are_of_the_draw_and_not_of_the_round() -> None:
    (group,) = all_of("all", ops=("random",))
    stratum = group.members[0][1]
    words = [draw_of(group, number, stratum, 4, seed=1).masks.or_mask for number in range(50)]
    assert len(set(words)) == 50
    assert draw_of(group, 7, stratum, 4, seed=1).masks.or_mask == words[7]
    assert draw_of(group, 7, stratum, 4, seed=2).masks.or_mask != words[7]


def test_faults_of_several_words_are_drawn_too() -> None:
    (group,) = all_of("all", pattern="burst", length=3, bits=(30,))
    for number, place in enumerate(drawn_places(group.population, 0, group.name, 0, 30)):
        member, at = members_of(group, np.array([place]))
        draw = draw_of(group, number, group.members[int(member[0])][1], int(at[0]), seed=0)
        assert draw.faulty is not None
        assert np.diff(draw.faulty.index).tolist() == [1] * (len(draw.faulty) - 1)


def test_dimensions_are_read_in_any_order_and_told_when_wrong() -> None:
    assert dimensions("bit_class x site") == dimensions("site x bit_class") == ("site", "bit_class")
    assert dimensions("all") == ()
    with pytest.raises(UsageError, match=r"unknown dimension 'blocks'; did you mean 'block'\? Known: site, kind"):
        dimensions("blocks")
    with pytest.raises(UsageError, match="names a dimension twice"):
        dimensions("bit x bit")


def test_values_are_those_of_the_faulty_tensor() -> None:
    stratum = all_of("site", bits=(31,))[0].members[0][1]
    by = dimensions("site x kind x block x bit x bit_class x tier")
    assert values_of(stratum, by) == ("block.0.mlp.fc1", "fc1", 0, 31, "sign", 0)
