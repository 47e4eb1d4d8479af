"""A [[faults]] section: what goes together, and what does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.spec.faults import FaultSpec
from testbed.core.errors import UsageError
from testbed.core.patterns import BurstPattern, ColumnPattern, ElementPattern, RowPattern, TilePattern


def with_section(values: dict[str, Any], **keys: Any) -> dict[str, Any]:
    values = copy.deepcopy(values)
    values["faults"] = [{"target": "model", "where": "activation", **keys}]
    return values


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"pattern": "blob"}, "faults[0].pattern"),
        ({"pattern": "burst"}, "faults[0]: pattern 'burst' needs length"),
        ({"pattern": "tile", "rows": 2}, "faults[0]: pattern 'tile' needs rows and columns"),
        ({"pattern": "bits"}, "pattern 'bits' needs count"),
        ({"pattern": "sites"}, "pattern 'sites' needs count"),
        ({"pattern": "row", "length": 3}, "length: belongs to pattern 'burst', not 'row'"),
        ({"count": 2}, "count: belongs to pattern 'bits', 'sites', not 'single'"),
        ({"pattern": "burst", "length": 1}, "faults[0].length"),
        ({"pattern": "tile", "rows": 0, "columns": 1}, "faults[0].rows"),
        ({"pattern": "bits", "count": 2, "ops": ["flip", "random"]}, "ops: 'random' sets whole words"),
        ({"pattern": "bits", "count": 3, "bits": [1, 30]}, "bits: names 2, of which 3 are to be struck together"),
        ({"pattern": "burst", "length": 2, "adjacent": True}, 'adjacent: is for pattern = "bits"'),
        ({"same_bit": False}, "same_bit: is for patterns of several words in a tensor, not 'single'"),
        ({"pattern": "sites", "count": 2, "same_bit": False}, "not 'sites'"),
        ({"where": "weight", "scope": "inference"}, "scope: a weight fault lasts for every image; leave scope out"),
        ({"scope": "forever"}, "faults[0].scope"),
        ({"pattern": "sites", "count": 2}, "set engine.ports = 'op'"),
        ({"pattern": "rows"}, "faults[0].pattern"),
        ({"patern": "row"}, "faults[0].patern: unknown key; did you mean 'pattern'? Known keys there: target, where"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(
    tiny_values: dict[str, Any], keys: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(with_section(tiny_values, **keys))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "name", "geometry"),
    [
        ({}, "single", ElementPattern()),
        ({"pattern": "bits", "count": 3}, "bits-3", ElementPattern()),
        ({"pattern": "bits", "count": 3, "adjacent": True}, "bits-3-adjacent", ElementPattern()),
        ({"pattern": "burst", "length": 4}, "burst-4", BurstPattern(4)),
        ({"pattern": "burst", "length": 4, "same_bit": False}, "burst-4-any-bit", BurstPattern(4)),
        ({"pattern": "row"}, "row", RowPattern()),
        ({"pattern": "column", "same_bit": False}, "column-any-bit", ColumnPattern()),
        ({"pattern": "tile", "rows": 8, "columns": 16}, "tile-8x16", TilePattern(8, 16)),
        ({"where": "weight", "pattern": "sites", "count": 2}, "sites-2", ElementPattern()),
    ],
)
def test_a_pattern_is_named_with_its_size(
    tiny_values: dict[str, Any], keys: dict[str, Any], name: str, geometry: Any
) -> None:
    (section,) = parse_spec(with_section(tiny_values, **keys)).faults
    assert section.pattern_name("flip") == name
    assert section.pattern_name("random") == name.removesuffix("-any-bit")
    assert section.geometry == geometry


def test_all_operations_on_some_bits_of_a_word_are_those_that_have_bits() -> None:
    section = FaultSpec(target="model", where="weight", pattern="bits", count=2)
    assert section.ops == ("flip", "stuck0", "stuck1")


def test_weight_faults_are_of_every_image_and_activation_faults_if_asked() -> None:
    scopes = [("weight", None), ("weight", "persistent"), ("activation", "persistent"), ("activation", None)]
    assert [FaultSpec(target="model", where=w, scope=s).persistent for w, s in scopes] == [True, True, True, False]  # type: ignore[arg-type]


def test_sections_may_share_an_operation_if_their_patterns_or_scopes_differ(tiny_values: dict[str, Any]) -> None:
    one = {"target": "model", "where": "activation", "ops": ["flip"]}
    others: list[dict[str, Any]] = [
        {"pattern": "row"},
        {"pattern": "row", "same_bit": False},
        {"scope": "persistent"},
        {"pattern": "burst", "length": 2},
        {"pattern": "burst", "length": 3},
    ]
    values = copy.deepcopy(tiny_values)
    values["faults"] = [one, *({**one, **keys} for keys in others)]
    assert len(parse_spec(values).faults) == 6


def test_a_section_survives_the_manifest(tiny_values: dict[str, Any]) -> None:
    values = with_section(tiny_values, pattern="tile", rows=2, columns=2, same_bit=False, scope="persistent")
    spec = parse_spec(values)
    assert parse_spec(spec.identity()) == spec


@pytest.mark.parametrize("images", [0, -1, 1.5, "some"])
def test_images_are_all_or_a_number(tiny_values: dict[str, Any], images: Any) -> None:
    with pytest.raises(UsageError, match=r"faults\[0\]\.images"):
        parse_spec(with_section(tiny_values, where="weight", images=images))


def test_only_persistent_faults_have_a_choice_of_images(tiny_values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"faults\[0\]\.images: .*leave it out, or set scope = \"persistent\""):
        parse_spec(with_section(tiny_values, images=4))
    spec = parse_spec(with_section(tiny_values, images=4, scope="persistent"))
    assert spec.images_each("model", "activation") == 4
    assert spec.images_each("model", "weight") is None


def test_faults_of_one_place_are_run_on_as_many_images(tiny_values: dict[str, Any]) -> None:
    weights = tiny_values["faults"][1]
    values = tiny_values | {"faults": [weights | {"bits": [30], "images": 2}, weights | {"bits": [3]}]}
    with pytest.raises(UsageError, match=r"faults\[1\]\.images: .* set it as in faults\[0\]"):
        parse_spec(values)
    values["faults"][1]["images"] = 2
    assert parse_spec(values).images_each("model", "weight") == 2
    values["faults"].append(tiny_values["faults"][3])  # another target
    assert parse_spec(values).images_each("attention", "weight") is None


def test_exposure_is_a_weight_per_site_pattern(tiny_values: dict[str, Any]) -> None:
    values = tiny_values | {"exposure": {"per_bit": True, "sites": {"*": 1e-4, "head": 0}}}
    exposure = parse_spec(values).exposure
    assert exposure is not None
    assert (exposure.sites, exposure.per_bit, exposure.unit) == ({"*": 1e-4, "head": 0.0}, True, "FIT")
    for wrong, told in (
        ({"sites": {"*": -1}}, 'exposure.sites."*"'),
        ({"sites": {}}, "exposure.sites"),
        ({"sites": {"*": 1}, "bit": 1}, "did you mean 'per_bit'? Known keys there: sites, per_bit, unit"),
    ):
        with pytest.raises(UsageError) as caught:
            parse_spec(tiny_values | {"exposure": wrong})
        assert told in str(caught.value)
