"""Sections that overlap: every stratum once, however many sections name it, and drawn from as the most demanding one asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.campaign.plan.groups import all_strata, grouped
from testbed.campaign.plan.sections import bits_named, check_sections, sampled_strata
from testbed.campaign.spec.campaign import CampaignSpec, FaultSpec, parse_spec
from testbed.campaign.summary.record import Summary
from testbed.core.errors import UsageError
from testbed.core.site import Site, SiteTable
from tests.support.plans import plan_table

SITES = ("block.0.attn.softmax", "block.0.mlp.fc1", "head")
TABLE = SiteTable("model", "id", "op", tuple(Site(name, "activation", (3, 2)) for name in SITES))
TABLES = {"model": TABLE}
TIERS = [["a", "b"], ["c"]]
FAULTS = {"target": "model", "where": "activation"}

some_sections: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        sites=st.lists(st.sampled_from(SITES), min_size=1, unique=True),
        ops=st.lists(st.sampled_from(["flip", "stuck0", "random"]), min_size=1, unique=True),
        bits=st.one_of(st.just("all"), st.lists(st.integers(0, 31), min_size=1, max_size=4, unique=True)),
        scope=st.sampled_from([None, "persistent"]),
        per_stratum=st.integers(1, 9),
    ),
    min_size=1,
    max_size=4,
)


def section(**keys: Any) -> FaultSpec:
    return FaultSpec.model_validate({**FAULTS, **keys})


def planned(spec: CampaignSpec, *faults: dict[str, Any]) -> list[dict[str, Any]]:
    sections = tuple(section(**keys) for keys in faults)
    return plan_table(spec.model_copy(update={"faults": sections}), TABLES, TIERS).to_pylist()


def drawn(rows: list[dict[str, Any]], site: str) -> list[tuple[Any, ...]]:
    columns = ("op", "bit", "tier", "draw", "index", "image_id", "and_mask", "or_mask", "xor_mask", "inclusion")
    return [tuple(row[name] for name in columns) for row in rows if row["site"] == site]


@given(some_sections)
def test_every_stratum_comes_once_with_the_most_that_anybody_asks_for(asked: list[dict[str, Any]]) -> None:
    sections = [section(**keys) for keys in asked]
    wanted: dict[tuple[Any, ...], int] = {}
    for one in sections:
        for site in one.sites:
            for op in one.ops:
                for bit in [None] if op == "random" else range(32) if one.bits == "all" else one.bits:
                    for tier in [None] if one.persistent else range(2):
                        key = (site, op, bit, tier)
                        wanted[key] = max(wanted.get(key, 0), one.per_stratum)
    found = list(sampled_strata(sections, TABLES, TIERS))
    keys = [(one.stratum.site.name, one.stratum.op, one.stratum.bit, one.stratum.tier) for one in found]
    assert len(keys) == len(set(keys))
    assert {key: one.wanted for key, one in zip(keys, found, strict=True)} == wanted
    assert all(sections[one.section].per_stratum == one.wanted for one in found)
    check_sections(sections, TABLES)


@given(some_sections)
def test_the_faulty_bits_are_those_of_the_strata(asked: list[dict[str, Any]]) -> None:
    sections = [section(**keys) for keys in asked]
    strata = [one.stratum for one in sampled_strata(sections, TABLES, TIERS) if one.stratum.op == "flip"]
    for persistent in (True, False):
        for site in TABLE:
            wanted = {s.bit for s in strata if s.site == site and s.persistent == persistent}
            assert bits_named(sections, TABLE, site, "flip", "single", persistent) == wanted


@given(some_sections)
def test_groups_of_an_adaptive_campaign_have_each_stratum_once(asked: list[dict[str, Any]]) -> None:
    spec = parse_spec({"name": "x", "model": {"onnx": "x"}, "data": {"name": "digits"}, "faults": [FAULTS]})
    spec = spec.model_copy(update={"faults": tuple(section(**keys) for keys in asked)})
    strata = [one.stratum for one in sampled_strata(spec.faults, TABLES, TIERS)]
    groups = grouped(all_strata(spec, TABLES, TIERS), ("site", "bit_class"))
    assert sum(group.population for group in groups) == sum(stratum.size for stratum in strata)
    assert sum(len(group.members) for group in groups) == len(strata)


def test_sections_of_other_sites_or_bits_give_the_rows_that_each_gives_alone(tiny_spec: CampaignSpec) -> None:
    one = {"sites": ["*.softmax"], "bits": [30], "ops": ["flip"], "per_stratum": 4}
    other = {"sites": ["*.fc1"], "ops": ["flip"], "per_stratum": 2}
    both = planned(tiny_spec, one, other)
    assert drawn(both, SITES[0]) == drawn(planned(tiny_spec, one), SITES[0])
    assert drawn(both, SITES[1]) == drawn(planned(tiny_spec, other), SITES[1])
    assert len({row["stratum"] for row in both}) == (1 + 32) * len(TIERS)


def test_more_of_one_tensor_are_the_same_faults_and_more_of_them(tiny_spec: CampaignSpec) -> None:
    all_sites = {"sites": ["*"], "bits": "29-31", "ops": ["flip"], "per_stratum": 1}
    softmax = {"sites": ["*.softmax"], "bits": [30], "ops": ["flip"], "per_stratum": 5}
    both = planned(tiny_spec, all_sites, softmax)
    few, many = planned(tiny_spec, all_sites), planned(tiny_spec, softmax)
    assert drawn(both, "head") == drawn(few, "head")
    assert [row for row in drawn(both, SITES[0]) if row[1] != 30] == [
        row for row in drawn(few, SITES[0]) if row[1] != 30
    ]
    assert [row for row in drawn(both, SITES[0]) if row[1] == 30] == drawn(many, SITES[0])
    assert {row[:-1] for row in drawn(few, SITES[0])} <= {row[:-1] for row in drawn(both, SITES[0])}


@given(some_sections)
def test_drawn_to_the_last_fault_the_plan_has_each_once(asked: list[dict[str, Any]]) -> None:
    """What a rate is of: no fault is in two strata, and the populations add up to the faults that there are."""
    for keys in asked:
        keys |= {"per_stratum": 1000, "ops": ["flip"], "bits": keys["bits"] if keys["bits"] != "all" else [0, 31]}
    spec = parse_spec({"name": "x", "model": {"onnx": "x"}, "data": {"name": "digits"}, "faults": [FAULTS]})
    rows = planned(spec, *asked)
    faults = [(row["site"], row["index"], row["bit"], row["image_id"]) for row in rows]
    assert len(faults) == len(set(faults))
    populations = {row["stratum"]: row["population"] for row in rows}
    assert sum(populations.values()) == len(faults)
    assert all(row["inclusion"] == 1 for row in rows)


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"pattern": "burst", "length": 2, "same_bit": False}, {"bits": [30]}, "chooses among other bits"),
        ({"pattern": "bits", "count": 2, "bits": [1, 2]}, {"bits": [1, 2, 3]}, "chooses among other bits"),
    ],
)
def test_populations_that_overlap_and_differ_are_refused_by_name(
    one: dict[str, Any], other: dict[str, Any], told: str
) -> None:
    first = {"ops": ["flip"], **one}
    second = first | other
    with pytest.raises(UsageError, match=told) as caught:
        check_sections([section(**first), section(**second)], TABLES)
    assert str(caught.value).startswith("faults[1] strikes block.0.attn.softmax with 'flip'")
    apart = [section(sites=["head"], **first), section(sites=["*.fc1"], **second)]
    check_sections(apart, TABLES)
    assert len(list(sampled_strata(apart, TABLES, TIERS))) == 2 * len(TIERS)


def test_faults_at_several_sites_choose_from_one_set(tiny_values: dict[str, Any]) -> None:
    pairs = {"target": "model", "where": "weight", "pattern": "sites", "count": 2, "ops": ["flip"]}
    tiny_values["faults"] = [pairs, pairs | {"per_stratum": 3}]
    table = SiteTable("model", "id", "op", (Site("a", "weight", (2,)), Site("b", "weight", (2,))))
    (only,) = sampled_strata(parse_spec(tiny_values).faults, {"model": table}, TIERS)
    assert (only.section, only.wanted) == (1, 3)
    tiny_values["faults"][1] = pairs | {"sites": ["head.*"]}
    with pytest.raises(UsageError, match=r"faults\[1\]: chooses 2 among other sites or bits than faults\[0\]"):
        parse_spec(tiny_values)


def test_what_one_section_excludes_another_may_inject() -> None:
    chosen = TABLE.select_any("activation", [("*.softmax",), ("*", "!*.softmax", "!head")])
    assert [site.name for site in chosen] == list(SITES[:2])


def test_a_campaign_of_overlapping_sections_has_the_rows_of_those_that_do_not(
    tiny_values: dict[str, Any], tiny_run: Path, tmp_path: Path, run_spec: Callable[..., Summary]
) -> None:
    """The tiny campaign strikes softmax 30 times per stratum, along with others; here only softmax is struck as often."""
    everything = tiny_values["faults"][0] | {"per_stratum": 2}
    softmax = tiny_values["faults"][0] | {"sites": ["*.softmax"], "bits": [30]}
    summary = run_spec(parse_spec(tiny_values | {"faults": [everything, softmax]}), tmp_path / "run")
    mine, theirs = (pq.read_table(folder / "results.parquet").to_pylist() for folder in (tmp_path / "run", tiny_run))
    fault = ("target", "site", "op", "bit", "tier", "index", "image_id", "or_mask")
    found = ("golden_word", "faulty_word", "outcome", "max_abs_diff", "top1_faulty", "margin_faulty", "nonfinite")
    known = {tuple(row[name] for name in fault): str([row[name] for name in found]) for row in theirs}
    assert all(
        known[tuple(row[name] for name in fault)] == str([row[name] for name in found]) for row in mine
    )  # NaN too

    def faulty(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
        ours = (
            row for row in rows if row["target"] == "model" and row["site"].endswith("softmax") and row["bit"] == 30
        )
        return {tuple(row[name] for name in fault) for row in ours}

    assert faulty(mine) == faulty(theirs)
    assert len(faulty(mine)) == 3 * 2 * 30  # operations, tiers
    everywhere = [m for m in summary.marginals if m.op == "flip" and m.by == "all"]
    assert [m.faults for m in everywhere] == [sum(row["op"] == "flip" for row in mine)]
