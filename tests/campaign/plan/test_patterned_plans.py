"""Faults of many words: what is drawn, and what a plan keeps of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.campaign.plan.draw import Stratum, draws, most_points, strata
from testbed.campaign.plan.points import points_path
from testbed.campaign.plan.row import Origin, planned_fault
from testbed.campaign.plan.table import in_parts, read_plan, widest, write_plan
from testbed.campaign.plan.units import plan_slice_of
from testbed.campaign.spec.faults import FaultSpec
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.site import Site, SiteTable
from testbed.instrument.ports.feed import NO_SITE

TABLE = SiteTable(
    "model",
    "id",
    "op",
    (
        Site("scores", "activation", (2, 3, 4)),
        Site("q", "activation", (3, 4), "int8"),
        Site("head", "activation", (5,)),
        Site("head.weight", "weight", (5, 4), transposed=True),
        Site("conv.weight", "weight", (2, 3, 2, 2)),
    ),
)
TIERS = [["a", "b"], ["c"]]


def section(where: str = "activation", **keys: Any) -> FaultSpec:
    return FaultSpec.model_validate({"target": "model", "where": where, **keys})


def strata_of(**keys: Any) -> list[Stratum]:
    return list(strata(section(**keys), TABLE, TIERS))


# ---- drawing


PATTERNS: dict[str, tuple[dict[str, Any], Callable[[tuple[int, ...]], int]]] = {
    "bits": ({"pattern": "bits", "count": 2}, lambda shape: math.prod(shape)),
    "burst": ({"pattern": "burst", "length": 3}, lambda shape: math.prod(shape) - 2),
    "row": ({"pattern": "row"}, lambda shape: math.prod(shape[:-1])),
    "column": ({"pattern": "column"}, lambda shape: math.prod(shape) // (shape[-2] if len(shape) > 1 else 1)),
    "tile": (
        {"pattern": "tile", "rows": 2, "columns": 3},
        lambda shape: math.prod(shape[:-2]) * -(-(1, *shape)[-2] // 2) * -(-shape[-1] // 3),
    ),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("site", ["scores", "q", "head"])
def test_a_stratum_holds_every_place_of_its_pattern_for_every_image(pattern: str, site: str) -> None:
    keys, places = PATTERNS[pattern]
    for stratum in strata_of(sites=(site,), ops=("flip",), bits=(0, 3, 7), **keys):
        count = places(TABLE[site].shape) * (math.comb(3, 2) if pattern == "bits" else 1)
        assert stratum.population == stratum.size == count * len(stratum.images)
        found = draws(stratum, 10**6, seed=0)
        assert len(found) == stratum.size
        assert len({(d.image_id, *d.faulty.index, *d.faulty.masks.ravel()) for d in found if d.faulty}) == len(found)


@given(st.sampled_from(list(PATTERNS)), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_more_draws_only_add_faults(pattern: str, few: int, more: int, seed: int) -> None:
    stratum = strata_of(sites=("scores",), ops=("flip",), bits=(1, 5), **PATTERNS[pattern][0])[0]
    first, second = draws(stratum, few, seed), draws(stratum, few + more, seed)
    assert first == second[: len(first)]
    for one, other in zip(first, second, strict=False):
        assert one.faulty is not None
        assert other.faulty is not None
        assert one.faulty.masks.tolist() == other.faulty.masks.tolist()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["scores", "q"]))
def test_words_of_one_fault_share_their_bit_or_have_their_own(seed: int, site: str) -> None:
    full = 2 ** TABLE[site].format.bits - 1
    shared = strata_of(sites=(site,), ops=("flip",), bits=(2, 6), pattern="row")
    assert [stratum.bit for stratum in shared] == [2, 2, 6, 6]
    for stratum in shared:
        (draw,) = draws(stratum, 1, seed)
        assert draw.faulty is not None
        assert draw.faulty.masks.tolist() == [[full, 0, 1 << (stratum.bit or 0)]] * 4
    own = strata_of(sites=(site,), ops=("stuck1",), bits=(2, 6), pattern="row", same_bit=False)
    assert [stratum.bit for stratum in own] == [None, None]
    (draw,) = draws(own[0], 1, seed)
    assert draw.faulty is not None
    assert all(mask in ([full, 4, 0], [full, 64, 0]) for mask in draw.faulty.masks.tolist())
    random = strata_of(sites=(site,), ops=("random",), pattern="row")
    (draw,) = draws(random[0], 1, seed)
    assert draw.faulty is not None
    keep, put, turn = draw.faulty.masks.T
    assert not keep.any()
    assert not turn.any()
    assert (put <= full).all()


def masks_of(stratum: Stratum, seed: int) -> NDArray:
    """The masks (words, 3) of four draws from a stratum."""
    faulty = [draw.faulty for draw in draws(stratum, 4, seed)]
    return np.concatenate([words.masks for words in faulty if words is not None])


def test_own_bits_and_random_words_are_spread_evenly() -> None:
    own = strata_of(sites=("scores",), ops=("flip",), pattern="tile", rows=3, columns=4, same_bit=False)[0]
    bits = Counter(int(m).bit_length() - 1 for s in range(60) for m in masks_of(own, s)[:, 2])
    assert set(bits) == set(range(32))
    assert max(bits.values()) < 2 * min(bits.values())
    random = strata_of(sites=("scores",), ops=("random",), pattern="row")[0]
    words = {int(word) for s in range(60) for word in masks_of(random, s)[:, 1]}
    assert len(words) > 950  # of 960: no word is used twice but by chance


@given(st.integers(0, 2**32 - 1))
def test_adjacent_bits_are_strata_by_their_uppermost_one(seed: int) -> None:
    found = strata_of(sites=("q",), ops=("stuck0",), pattern="bits", count=3, adjacent=True)
    assert [stratum.bit for stratum in found[::2]] == [2, 3, 4, 5, 6, 7]
    for stratum in found:
        (draw,) = draws(stratum, 1, seed)
        assert 0xFF ^ draw.masks.and_mask == 7 << ((stratum.bit or 0) - 2)
    gap = strata_of(sites=("q",), ops=("flip",), bits=(0, 1, 3, 4, 5), pattern="bits", count=2, adjacent=True)
    assert [stratum.bit for stratum in gap[::2]] == [1, 4, 5]


@settings(max_examples=30)
@given(st.integers(2, 3), st.integers(0, 2**32 - 1))
def test_several_sites_are_different_ones_in_the_engines_order(count: int, seed: int) -> None:
    first, *_ = found = strata_of(ops=("flip",), pattern="sites", count=count)
    assert [(s.tier, s.bit, s.name.split("/")[1]) for s in found] == [(0, None, "*"), (1, None, "*")]
    sizes = [24, 12, 5]
    ways = sizes[0] * sizes[1] + sizes[0] * sizes[2] + sizes[1] * sizes[2] if count == 2 else math.prod(sizes)
    assert first.population == ways * 2
    drawn = draws(first, 50, seed)
    for draw in drawn:
        assert draw.faulty is not None
        ports = [TABLE.ports[site] for site in draw.faulty.sites]
        assert ports == sorted(set(ports))
        assert len(ports) == count
        for site, index, masks in zip(draw.faulty.sites, draw.faulty.index, draw.faulty.masks, strict=True):
            assert index < TABLE[site].elements
            assert int(masks[2]).bit_count() == 1
            assert masks[2] < 1 << TABLE[site].format.bits
    assert len({(d.image_id, *d.faulty.sites, *d.faulty.index) for d in drawn if d.faulty}) == len(drawn)


def test_several_large_sites_are_drawn_from_and_weighed_although_they_are_beyond_counting() -> None:
    large = SiteTable("m", "i", "op", tuple(Site(f"s{i}", "activation", (197, 3072)) for i in range(170)))
    one, other = strata(section(ops=("flip",), pattern="sites", count=8), large, [["a"], ["b", "c", "d"]])
    assert one.size > 2**63
    assert other.population == 3 * one.population < 2**63
    assert len({tuple(draw.faulty.index) for draw in draws(one, 20, 0) if draw.faulty}) == 20


def test_a_persistent_activation_fault_has_neither_image_nor_tier() -> None:
    found = strata_of(sites=("head",), ops=("stuck1",), bits=(7,), scope="persistent")
    assert [(s.tier, s.images, s.population, s.name) for s in found] == [
        (None, (), 5, "model/head/stuck1/mantissa-15/None")
    ]
    assert {(d.image_id, d.index) for d in draws(found[0], 9, 0)} == {(None, index) for index in range(5)}


def test_patterns_draw_each_for_itself() -> None:
    names = [
        strata_of(ops=("flip",), bits=(1, 2), **keys)[0].name
        for keys in (
            {},
            {"pattern": "burst", "length": 2},
            {"pattern": "burst", "length": 3},
            {"pattern": "row"},
            {"pattern": "row", "same_bit": False},
            {"pattern": "bits", "count": 2},
            {"pattern": "bits", "count": 2, "adjacent": True},
            {"pattern": "sites", "count": 2},
            {"scope": "persistent"},
        )
    ]
    assert len(set(names)) == len(names)
    assert names[0] == "model/scores/flip/mantissa-21/0"


def test_a_tensor_without_room_is_named_with_the_fix() -> None:
    with pytest.raises(UsageError, match=r'site head is too small for pattern \'burst-6\'; .* \["\*", "!head"\]'):
        strata_of(ops=("flip",), pattern="burst", length=6)
    with pytest.raises(UsageError, match="pattern 'sites-2' needs as many sites; the section's patterns name 1"):
        strata_of(sites=("head",), pattern="sites", count=2)
    with pytest.raises(UsageError, match="site q is too small for pattern 'bits-9'"):
        strata_of(sites=("q",), ops=("flip",), pattern="bits", count=9)


def test_the_most_points_of_a_fault_in_one_inference() -> None:
    assert most_points([section()], TABLE) == 1
    assert most_points([section(pattern="column"), section(pattern="row", sites=("q",))], TABLE) == 4
    assert most_points([section(pattern="tile", rows=9, columns=3)], TABLE) == 9
    assert most_points([section(pattern="sites", count=3)], TABLE) == 3
    assert most_points([section("weight", pattern="row")], TABLE) == 1


# ---- plans


def plan_of(path: Path, *sections: FaultSpec, per_stratum: int = 2) -> None:
    fault_ids = count()
    faults = (
        planned_fault(next(fault_ids), stratum, draw, TABLE, Origin(0, stratum.population, 1.0))
        for one in sections
        for stratum in strata(one, TABLE, TIERS)
        for draw in draws(stratum, per_stratum, 8)
    )
    write_plan(path, in_parts(faults))


MIXED = (
    section(bits=(3,), ops=("flip",)),
    section(bits=(3,), ops=("flip",), pattern="tile", rows=2, columns=2),
    section(bits=(3,), ops=("flip",), pattern="sites", count=3),
    section(bits=(3,), ops=("flip",), pattern="row", scope="persistent"),
    section("weight", bits=(3,), ops=("random",), pattern="column"),
    section("weight", bits=(3,), ops=("flip",)),
)


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("testbed.campaign.plan.table.PART_WORDS", 20)  # several row groups
    plan_of(tmp_path / "faults.parquet", *MIXED)
    return tmp_path / "faults.parquet"


def expected_words(path: Path) -> dict[int, list[tuple[str, int, int, int, int]]]:
    """Fault -> its (site, index, masks), from the two files as they are."""
    plan, points = pq.read_table(path).to_pylist(), pq.read_table(points_path(path)).to_pylist()
    words: dict[int, list[tuple[str, int, int, int, int]]] = {row["fault_id"]: [] for row in plan}
    keys = ("site", "index", "and_mask", "or_mask", "xor_mask")
    for point in points:
        assert point["point"] == len(words[point["fault_id"]])
        words[point["fault_id"]].append(tuple(point[key] for key in keys))
    for row in plan:
        own = words[row["fault_id"]] = words[row["fault_id"]] or [tuple(row[key] for key in keys)]
        assert own[0] == tuple(row[key] for key in keys)
        assert len(own) == row["points"]
    return words


def test_a_plan_tells_pattern_scope_and_number_of_words(mixed: Path) -> None:
    plan = pq.read_table(mixed).to_pandas()
    told = plan.groupby(["where", "pattern", "scope"], observed=True, sort=False).points.max().reset_index()
    assert told.to_numpy().tolist() == [
        ["activation", "single", "inference", 1],
        ["activation", "tile-2x2", "inference", 4],
        ["activation", "sites-3", "inference", 3],
        ["activation", "row", "persistent", 5],
        ["weight", "column", "persistent", 5],
        ["weight", "single", "persistent", 1],
    ]
    assert plan.fault_id.tolist() == list(range(len(plan)))
    assert widest(mixed) == 5
    assert pq.ParquetFile(mixed).num_row_groups > 3


@settings(max_examples=40)
@given(st.data())
def test_a_legs_points_are_the_words_of_its_faults(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "plan" / "faults.parquet"
    if not path.exists():
        plan_of(path, *MIXED)
    words, plan = expected_words(path), pq.read_table(path)
    start = data.draw(st.integers(0, plan.num_rows - 1))
    wheres = plan.column("where").to_pylist()
    end = next((i for i in range(start, len(wheres)) if wheres[i] != wheres[start]), len(wheres))
    plan_slice = plan_slice_of(path, start, data.draw(st.integers(start + 1, end)))
    if data.draw(st.booleans()):
        plan_slice = plan_slice.take(sorted(data.draw(st.sets(st.integers(0, len(plan_slice) - 1), min_size=1))))
    points = plan_slice.points
    assert points.site.shape == points.and_mask.shape
    for row, fault in enumerate(plan_slice.column("fault_id")):
        own = points.site[row] != NO_SITE
        assert own.tolist() == [True] * len(words[fault]) + [False] * (points.site.shape[1] - len(words[fault]))
        columns = (points.index, points.and_mask, points.or_mask, points.xor_mask)
        found = zip(points.site[row][own], *(column[row][own].tolist() for column in columns), strict=True)
        assert [(points.names[site], *rest) for site, *rest in found] == words[fault]
    if plan_slice.where == "activation":
        feed = points.feed(TABLE)
        assert feed.site.tolist() == [
            [TABLE.ports[points.names[site]] if site != NO_SITE else NO_SITE for site in row] for row in points.site
        ]


def test_weight_faults_are_where_weights_are_stored(mixed: Path) -> None:
    words, plan = expected_words(mixed), read_plan(mixed)
    weights = np.flatnonzero(np.array(plan.column("where").to_pylist()) == "weight")
    plan_slice = plan_slice_of(mixed, int(weights[0]), plan.num_rows)
    for row, fault in enumerate(plan_slice.column("fault_id")):
        (place,) = plan_slice.points.weights(row, TABLE)
        site = TABLE[words[fault][0][0]]
        canonical = np.arange(site.elements).reshape(site.shape)
        stored = (canonical.T if site.transposed else canonical).reshape(-1)
        assert stored[place.index].tolist() == [word[1] for word in words[fault]]
        assert place.or_mask.tolist() == [word[3] for word in words[fault]]


def test_points_that_are_damaged_or_missing_are_refused(mixed: Path) -> None:
    several = int(np.flatnonzero(read_plan(mixed).column("points").to_numpy() > 1)[0])
    points = pq.read_table(points_path(mixed))
    pq.write_table(points.slice(8), points_path(mixed))
    with pytest.raises(StaleArtefact, match=r"faults\.points\.parquet lacks words of the plan's faults"):
        _ = plan_slice_of(mixed, several, several + 1).points
    points_path(mixed).write_bytes(b"PAR1")
    with pytest.raises(
        StaleArtefact, match="not a readable list of struck words; rerun with `testbed campaign run SPEC --redo plan`"
    ):
        _ = plan_slice_of(mixed, several, several + 1).points
    _ = plan_slice_of(mixed, 0, 2).points  # single faults need no such file
