"""Strata by golden value: a partition of the stratum, drawn from uniformly, that follows the values and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.plan.draw import Stratum, drawn
from testbed.campaign.plan.steer.value_classes import (
    NAMES,
    ValueClasses,
    classed_sites,
    classes_of,
    packed_classes,
    split_strata,
    unpacked_classes,
)
from testbed.core.errors import StaleArtefact
from testbed.core.formats import FP32
from testbed.core.site import Site
from tests.support.adaptive_plans import IMAGES, TABLE, TABLES, TIERS, spec_with

TOP = FP32.bits - 2
SITES = tuple(site for site in TABLE if site.where == "activation")
RELATIVE = {"relative": 0.1, "margin": 0.01}


def golden(site: Site) -> NDArray[np.float32]:
    """(images, elements) values of all sizes."""
    rng = np.random.default_rng(len(site.name))
    return rng.normal(0, 1, (len(IMAGES), site.elements)).astype(np.float32)


@pytest.fixture
def values(tmp_path: Path) -> ValueClasses:
    return read(tmp_path)


def read(folder: Path, sites: tuple[Site, ...] = SITES) -> ValueClasses:
    packed = np.concatenate([packed_classes(golden(site)) for site in SITES], axis=1)
    classes = [classes_of(golden(site)) for site in SITES]
    counts = np.array([[(some == number).sum(1) for number in range(4)] for some in classes]).transpose(2, 0, 1)
    np.save(folder / "values.npy", packed)
    np.save(folder / "counts.npy", counts.astype(np.int32))
    return ValueClasses.read(folder / "values.npy", folder / "counts.npy", sites, IMAGES)


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 23)), elements=st.floats(width=32)))
def test_classes_are_those_of_the_exponent(array: NDArray[np.float32]) -> None:
    """By the word itself: the exponent field says which power of two the size lies above."""
    exponent = (array.view(np.uint32) >> 23 & 255).astype(int)
    wanted = np.searchsorted([126, 127, 128], exponent, side="right")
    np.testing.assert_array_equal(classes_of(array), wanted)
    packed = packed_classes(array)
    assert packed.shape[1] == -(-array.shape[1] // 4)
    for row, classes in zip(packed, wanted, strict=True):
        np.testing.assert_array_equal(unpacked_classes(row, array.shape[1]), classes)


@settings(max_examples=20)
@given(st.sampled_from(SITES), st.sampled_from([0, 1]), st.sampled_from([TOP, TOP - 1, 23]))
def test_the_classes_of_a_stratum_are_its_faults_each_once(
    tmp_path_factory: pytest.TempPathFactory, site: Site, tier: int, bit: int
) -> None:
    values = read(tmp_path_factory.mktemp("values"))
    stratum = Stratum("model", site, "flip", bit, tier, tuple(TIERS[tier]))
    parts = list(values.split(stratum))
    assert sum(part.size for part in parts) == stratum.size
    seen = set()
    for part in parts:
        assert part.within is not None
        name = part.within.name.removeprefix(f"{site.kind} ")
        numbers = range(3) if name == "below 2" else [NAMES.index(name)]
        for draw in drawn(part, part.size, 3):
            assert draw.image_id is not None
            value = golden(site)[IMAGES.index(draw.image_id), draw.index]
            assert classes_of(np.array([value]))[0] in numbers
            seen.add((draw.image_id, draw.index))
    assert len(seen) == stratum.size


def test_draws_of_a_class_are_uniform(values: ValueClasses) -> None:
    stratum = Stratum("model", SITES[0], "flip", TOP, 0, tuple(TIERS[0]))
    part = max(values.split(stratum), key=lambda some: some.size)
    counts: dict[tuple[str | None, int], int] = {}
    campaigns = 400
    for seed in range(campaigns):
        for draw in drawn(part, 5, seed):
            counts[draw.image_id, draw.index] = counts.get((draw.image_id, draw.index), 0) + 1
    expected = 5 * campaigns / part.size
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values()) + expected * (part.size - len(counts))
    assert chi2 < part.size + 5 * np.sqrt(2 * part.size)


def test_only_faults_that_follow_from_the_value_are_told_apart(values: ValueClasses) -> None:
    activation, weight = SITES[0], next(site for site in TABLE if site.where == "weight")
    images = tuple(TIERS[0])
    alone = [
        Stratum("model", activation, "flip", 22, 0, images),
        Stratum("model", activation, "flip", 31, 0, images),
        Stratum("model", activation, "random", None, 0, images),
        Stratum("model", activation, "flip", TOP, None, ()),
        Stratum("model", weight, "flip", TOP, None, ()),
    ]
    assert list(split_strata(iter(alone), {"model": values})) == alone
    split = Stratum("model", activation, "stuck1", TOP, 0, images)
    assert len(list(split_strata(iter([split]), {"model": values}))) == 4
    assert list(split_strata(iter([split]), None)) == [split]
    other = Stratum("model", activation, "flip", TOP - 1, 0, images)
    assert [part.within and part.within.name for part in split_strata(iter([other]), {"model": values})] == [
        f"{activation.kind} below 2",
        f"{activation.kind} 2 and more",
    ]
    narrow = Site("block.0.mlp.fc1", "activation", (4,), "int8")
    assert classed_sites(TABLES["model"], spec_with(**RELATIVE).faults) == [s for s in SITES if s.name != "embed"]
    assert next(values.split(Stratum("model", narrow, "flip", 7, 0, images))).within is None


def test_a_campaign_by_value_draws_each_fault_at_most_once_and_weighs_all(values: ValueClasses) -> None:
    """Populations of the rounds' strata add up to those of the domains, though classes were drawn from apart."""
    plain = AdaptivePlanner(spec_with(margin=0.02), TABLES, TIERS)
    planner = AdaptivePlanner(spec_with(**RELATIVE), TABLES, TIERS, values={"model": values})
    assert len(planner.groups) > len(plain.groups)
    assert {group.values[-1] for group in planner.groups} >= {None, *(f"fc1 {name}" for name in NAMES)}
    whole, parted = (some.frame.sums(some.frame.population) for some in (plain, planner))
    np.testing.assert_array_equal(whole, parted)
    parts = planner.round(0, [])
    assert parts is not None
    plan = [row for part in parts for row in part.faults.to_pylist()]
    keys = [(row["site"], row["bit"], row["index"], row["image_id"]) for row in plan]
    assert len(set(keys)) == len(keys)
    for row in plan:
        if row["where"] == "activation" and row["bit"] == TOP:
            site = TABLE[row["site"]]
            label = planner.groups[row["stratum"]].values[-1]
            value = golden(site)[IMAGES.index(row["image_id"]), row["index"]]
            assert label == f"{site.kind} {NAMES[classes_of(np.array([value]))[0]]}"


def test_files_of_another_campaign_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StaleArtefact, match=r"is not of this campaign's sites and images; rerun with `.* --redo plan`"):
        read(tmp_path, SITES[:2])
