"""Sampling: without replacement, uniform, and each stratum's draws its own affair."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from testbed.campaign.files import PLAN
from testbed.campaign.folder.images import named_images
from testbed.campaign.plan.draw import Draw, Stratum, drawn, draws, strata
from testbed.campaign.plan.table import read_plan, write_plan
from testbed.campaign.spec.campaign import CampaignSpec, FaultSpec, parse_spec
from testbed.core.errors import StaleArtefact
from testbed.core.fault import Op
from testbed.core.site import Site, SiteTable
from tests.support.plans import plan_table

TABLE = SiteTable(
    "model",
    "id",
    "gated_replace",
    (
        Site("embed", "activation", (5, 4)),
        Site("head", "activation", (3,)),
        Site("head.weight", "weight", (3, 4), transposed=True),
    ),
)
TIERS = [["a", "b"], [], ["c", "d", "e"]]


def stratum(site: str = "embed", op: Op = "flip", bit: int | None = 30, images: str = "abcde") -> Stratum:
    return Stratum("model", TABLE[site], op, bit, 0, tuple(images))


def places(drawn: list[Draw]) -> list[tuple[str | None, int]]:
    return [(draw.image_id, draw.index) for draw in drawn]


@given(st.integers(1, 120), st.integers(0, 2**32))
def test_no_fault_is_drawn_twice_and_all_are_in_range(wanted: int, seed: int) -> None:
    drawn = draws(stratum(), wanted, seed)
    assert len(drawn) == len(set(places(drawn))) == min(wanted, 100)
    assert all(0 <= draw.index < 20 and draw.image_id in set("abcde") for draw in drawn)
    assert [draw.number for draw in drawn] == list(range(len(drawn)))


@given(st.integers(0, 2**32))
def test_all_of_a_small_stratum_is_drawn(seed: int) -> None:
    drawn = draws(stratum("head", images="ab"), 1000, seed)
    assert sorted(places(drawn)) == [(image, index) for image in "ab" for index in range(3)]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_asking_for_more_keeps_what_was_drawn(few: int, more: int, seed: int) -> None:
    assert draws(stratum(), few, seed) == draws(stratum(), few + more, seed)[:few]


def test_the_same_seed_draws_the_same_and_another_seed_does_not() -> None:
    assert draws(stratum(), 10, 1) == draws(stratum(), 10, 1)
    assert draws(stratum(), 10, 1) != draws(stratum(), 10, 2)


def test_strata_that_differ_in_anything_are_drawn_apart() -> None:
    others = [stratum(), stratum(bit=29), stratum(op="stuck0")]
    others.append(Stratum("attention", TABLE["embed"], "flip", 30, 0, tuple("abcde")))
    others.append(Stratum("model", TABLE["embed"], "flip", 30, 1, tuple("abcde")))
    assert len({tuple(places(draws(other, 20, 1))) for other in others}) == len(others)


def test_places_are_drawn_uniformly() -> None:
    counts = Counter(place for seed in range(400) for place in places(draws(stratum(), 5, seed)))
    observed = [counts[image, index] for image in "abcde" for index in range(20)]
    assert chisquare(observed).pvalue > 1e-3


def test_the_first_and_the_last_draw_are_uniform_too() -> None:
    for number in (0, 4):
        counts = Counter(draws(stratum(images="a"), 5, seed)[number].index for seed in range(1000))
        assert chisquare([counts[index] for index in range(20)]).pvalue > 1e-3


def test_random_words_are_uniform_in_every_bit() -> None:
    words = [draw.masks.or_mask for seed in range(20) for draw in draws(stratum(op="random", bit=None), 100, seed)]
    ones = np.array([[word >> bit & 1 for bit in range(32)] for word in words]).sum(0)
    assert chisquare(ones, np.full(32, ones.mean())).pvalue > 1e-3
    assert abs(ones.mean() / len(words) - 0.5) < 0.01
    assert max(words) >= 2**31


def test_random_words_are_drawn_as_often_as_wanted_each_place_once_before_any_twice() -> None:
    words = stratum("head", op="random", bit=None, images="ab")  # 6 places
    many = draws(words, 20, seed=3)
    assert [draw.number for draw in many] == list(range(20))
    for turn in (many[:6], many[6:12], many[12:18]):
        assert len(set(places(turn))) == 6
    assert len({draw.masks.or_mask for draw in many}) == 20
    assert many[:6] == draws(words, 6, seed=3)
    assert words.inclusion(6) is words.inclusion(20) is None
    assert stratum("head", images="ab").inclusion(6) == 1


@pytest.mark.parametrize(
    ("section", "endless"),
    [
        ({"ops": ("flip",)}, False),
        ({"ops": ("random",)}, True),
        ({"ops": ("random",), "pattern": "burst", "length": 2}, True),
        ({"ops": ("flip",), "pattern": "burst", "length": 2}, False),
        ({"ops": ("stuck0",), "pattern": "row", "same_bit": False}, True),
        ({"ops": ("flip",), "pattern": "row", "same_bit": False, "bits": (3,)}, False),  # there is nothing to choose
        ({"ops": ("flip",), "pattern": "bits", "count": 2}, False),  # all pairs of bits are counted
        ({"ops": ("flip",), "pattern": "sites", "count": 2}, True),
        ({"ops": ("flip",), "pattern": "sites", "count": 2, "bits": (30,)}, False),
    ],
)
def test_content_that_is_drawn_with_the_place_makes_a_stratum_endless(section: dict[str, Any], endless: bool) -> None:
    found = list(strata(FaultSpec(target="model", where="activation", **section), TABLE, TIERS))
    assert {one.endless for one in found} == {endless}
    least = min(found, key=lambda one: one.size)
    many = list(islice(drawn(least, least.size + 5, seed=1), least.size + 5))
    assert len(many) == least.size + (5 if endless else 0)


def test_a_weight_fault_has_no_image_of_its_own() -> None:
    (only,) = strata(FaultSpec(target="model", where="weight", ops=("flip",), bits=(3,)), TABLE, TIERS)
    assert (only.images, only.tier, only.population) == ((), None, 12)
    assert {draw.image_id for draw in draws(only, 12, 0)} == {None}


def test_strata_are_site_by_operation_by_bit_by_tier_without_empty_tiers() -> None:
    section = FaultSpec(target="model", where="activation", ops=("flip", "random"), bits=(0, 31))
    found = [(s.site.name, s.op, s.bit, s.tier, s.population) for s in strata(section, TABLE, TIERS)]
    assert found == [
        (site, op, bit, tier, elements * images)
        for site, elements in (("embed", 20), ("head", 3))
        for op, bit in (("flip", 0), ("flip", 31), ("random", None))
        for tier, images in ((0, 2), (2, 3))
    ]


# ---- whole plans


@pytest.fixture(scope="module")
def tables(tiny_run: Path, tiny_spec: CampaignSpec) -> dict[str, SiteTable]:
    return {target: SiteTable.load(tiny_run / f"{target}.sites.json") for target in tiny_spec.targets}


@pytest.fixture(scope="module")
def tier_images(tiny_run: Path) -> list[list[str]]:
    return named_images(tiny_run / "tiers.json").per_tier(2)


def rows_of(plan: Any, *without: str) -> set[tuple[Any, ...]]:
    return {tuple(v for k, v in row.items() if k not in without) for row in plan.to_pylist()}


def test_the_stored_plan_is_what_the_spec_and_seed_say(
    tiny_run: Path, tiny_spec: CampaignSpec, tables: dict[str, SiteTable], tier_images: list[list[str]]
) -> None:
    assert read_plan(tiny_run / PLAN).equals(plan_table(tiny_spec, tables, tier_images))


@settings(max_examples=3)
@given(order=st.permutations(range(4)), dropped=st.integers(0, 3))
def test_a_sections_faults_do_not_depend_on_the_other_sections_or_their_order(
    tiny_run: Path, tables: dict[str, SiteTable], tier_images: list[list[str]], order: list[int], dropped: int
) -> None:
    spec = parse_spec(read_identity(tiny_run))
    kept = [spec.faults[i] for i in order if i != dropped]
    part = plan_table(spec.model_copy(update={"faults": tuple(kept)}), tables, tier_images)
    whole = plan_table(spec, tables, tier_images)
    assert rows_of(part, "fault_id", "stratum") < rows_of(whole, "fault_id", "stratum")


def read_identity(run: Path) -> dict[str, Any]:
    import json

    return json.loads((run / "manifest.json").read_text())["spec"]


def test_another_seed_is_another_plan(
    tiny_spec: CampaignSpec, tables: dict[str, SiteTable], tier_images: list[list[str]]
) -> None:
    one, other = (plan_table(tiny_spec.model_copy(update={"seed": s}), tables, tier_images) for s in (42, 43))
    assert one.num_rows == other.num_rows
    assert len(rows_of(one) & rows_of(other)) < 0.5 * one.num_rows  # small strata are drawn whole by either


def test_the_plan_says_how_likely_each_fault_was(tiny_run: Path) -> None:
    plan = pq.read_table(tiny_run / PLAN).to_pandas()
    assert plan.fault_id.tolist() == list(range(len(plan)))
    for _, part in plan.groupby("stratum"):
        assert part[["site", "op", "tier", "population", "inclusion"]].drop_duplicates().shape[0] == 1
        if part.op.iloc[0] == "random":  # of 2^32 words per place, no share worth telling was drawn
            assert part.inclusion.isna().all()
        else:
            np.testing.assert_allclose(part.inclusion, len(part) / part.population)
        assert part.draw.tolist() == list(range(len(part)))
    assert (plan.inclusion == 1).any()
    assert (plan.inclusion < 1).any()


def test_activation_faults_are_of_an_image_of_their_tier(tiny_run: Path, tier_images: list[list[str]]) -> None:
    plan = pq.read_table(tiny_run / PLAN).to_pandas()
    activations = plan[plan["where"] == "activation"]
    assert all(
        image in tier_images[int(tier)] for image, tier in zip(activations.image_id, activations.tier, strict=True)
    )
    assert plan[plan["where"] == "weight"][["image_id", "tier"]].isna().all(axis=None)


def test_a_damaged_plan_is_refused_by_name(tiny_run: Path, tmp_path: Path) -> None:
    whole = (tiny_run / PLAN).read_bytes()
    for content in (b"", whole[:-9], whole[9:]):
        (tmp_path / PLAN).write_bytes(content)
        with pytest.raises(
            StaleArtefact,
            match=r"faults\.parquet is no table of planned faults: .*; rerun with `testbed campaign run SPEC --redo plan`",
        ):
            read_plan(tmp_path / PLAN)


def test_a_plan_of_another_schema_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    plan = read_plan(tiny_run / PLAN)
    write_plan(tmp_path / PLAN, plan.replace_schema_metadata({"schema_version": "999"}))
    with pytest.raises(StaleArtefact, match=r"schema version 999"):
        read_plan(tmp_path / PLAN)
    write_plan(tmp_path / PLAN, copy.copy(plan).replace_schema_metadata(None))
    with pytest.raises(StaleArtefact, match=r"schema version none"):
        read_plan(tmp_path / PLAN)
