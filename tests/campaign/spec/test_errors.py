"""What is wrong with a spec is told all at once, a line each, in words of the file."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.errors import SeveralErrors, UsageError

PYDANTIC = re.compile(r"Input should|[Ff]ield required|validation|Value error|type=|pydantic|\(and \d+ more\)|extra_f")


def lines(values: dict[str, Any]) -> list[str]:
    """Without the heading."""
    with pytest.raises(UsageError) as caught:
        parse_spec(values, "my.toml")
    told = str(caught.value)
    assert not PYDANTIC.search(told)
    first, *rest = told.split("\n")
    if not rest:
        assert first.startswith("my.toml: ")
        return [first.removeprefix("my.toml: ")]
    assert isinstance(caught.value, SeveralErrors)
    assert first == f"my.toml: {len(rest)} things are wrong:"
    return [line.strip() for line in rest]


def test_everything_that_is_wrong_is_told_at_once(tiny_values: dict[str, Any]) -> None:
    """By itself, among keys of a table, and between tables, of which another is wrong as well."""
    values = copy.deepcopy(tiny_values)
    values |= {"seed": -1, "detektor": "none"}
    values["engine"] |= {"backend": "ort-cup", "precision": "fp23", "ports": "ops"}
    values["tolerance"]["atol"] = [1e-4, 1e-4, 1e-4]
    values["tiers"] = {"edges": [0.5, 1.0], "images": [0, 0]}
    values["faults"][0] |= {"bits": [3, 44], "ops": "flip"}
    values["faults"][1] |= {"length": 3, "rows": 2, "scope": "inference"}
    del values["faults"][2]["where"]
    told = lines(values)
    expected = [
        r"seed: -1 is not a whole number from 0 to 4294967295",
        r"tiers.images: asks for no image at all",
        r"engine.backend: unknown engine 'ort-cup'; did you mean 'ort-cpu'\? Known: ort-cpu, ",
        r"engine.precision: unknown precision 'fp23'; did you mean 'fp32'\? Known: fp32, ",
        r"engine.ports: unknown ports 'ops'; did you mean 'op'\? Known: ",
        r'faults\[0\].ops: "flip" is not a list of names out of flip, .*; write ops = \["flip"\], for example',
        r"faults\[0\].bits\[1\]: 44 is not a whole number from 0 to 31",
        r"faults\[1\].length: belongs to pattern 'burst', not 'single'",
        r"faults\[1\].rows: belongs to pattern 'tile', not 'single'",
        r"faults\[1\].scope: a weight fault lasts for every image; leave scope out",
        r"faults\[2\].where: missing; one of activation, weight is wanted",
        r"detektor: unknown key; did you mean 'detector'\? Known keys there: name, seed, ",
    ]
    assert len(told) == len(expected), told
    for line, pattern in zip(told, expected, strict=True):
        assert re.match(pattern, line), (line, pattern)


def test_tables_that_do_not_agree_are_told_though_another_is_wrong(tiny_values: dict[str, Any]) -> None:
    values = tiny_values | {"seed": "x"}
    values["tolerance"]["atol"] = [1e-4, 1e-4, 1e-4]
    values["engine"] |= {"precision": "bf16", "backend": "openvino"}
    values["faults"][0]["bits"] = [30]
    assert [line.partition(":")[0] for line in lines(values)][:3] == ["seed", "tolerance.atol", "faults[0].bits"]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("bits", "20-30", None),
        ("bits", "0-3, 31", None),
        ("bits", "7", None),
        ("bits", "30-20", 'write a list, such as [0, 1, 30], a range, such as "20-30", or "all"'),
        ("bits", "20-99", "'20-99': there are bits 0 to 31"),
        ("bits", "some", 'write a list, such as [0, 1, 30], a range, such as "20-30", or "all"'),
        ("bits", 30, "30 is not 'all' or a list of whole numbers from 0 to 31; write bits = [30], for example"),
        ("sites", "head", 'write sites = ["head"], for example'),
        ("ops", ["flipp"], "ops[0]: \"flipp\" is not one of flip, stuck0, stuck1, random; did you mean 'flip'"),
        ("target", "modell", "\"modell\" is not one of model, attention; did you mean 'model'"),
        ("site", ["head"], "unknown key; did you mean 'sites'? Known keys there: target"),
        ("atol", 1e-3, "unknown key; it is a key of [tolerance]. Known keys there: target"),
    ],
)
def test_a_section_in_other_words(tiny_values: dict[str, Any], path: str, value: Any, told: str | None) -> None:
    tiny_values["faults"] = [tiny_values["faults"][0] | {path: value}]
    if told is not None:
        (line,) = lines(tiny_values)
        assert line.startswith(f"faults[0].{path}")
        assert told in line
        return
    expected = {"20-30": tuple(range(20, 31)), "0-3, 31": (0, 1, 2, 3, 31), "7": (7,)}[value]
    spec = parse_spec(tiny_values)
    assert spec.faults[0].bits == expected
    tiny_values["faults"][0]["bits"] = list(expected)
    assert parse_spec(tiny_values).identity() == spec.identity()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"engine": 3}, ["engine: 3 is not a table; write [engine] above its keys"]),
        ({"faults": {"target": "model"}}, ["faults: is one table; write [[faults]], in two brackets, above each section"]),
        ({"faults": [3]}, ["faults[0]: 3 is not a table; write [[faults]] above its keys"]),
        ({"faults": []}, ["faults: is empty; a list of tables is wanted"]),
        ({"name": "a/b"}, ['name: "a/b" is not a name of letters, digits, dots, dashes and underscores that begins']),
        ({"stop": {"breadth": 0.1}}, ["stop.breadth: unknown key; known keys there"]),
        ({"stop": {}}, ["stop.margin: missing; say how well rates are to be known: relative = 0.1 "]),
        ({"detector": "nonfinit"}, ["detector: unknown detector 'nonfinit'; did you mean 'nonfinite'? Known: none"]),
    ],
)  # fmt: skip
def test_a_table_in_other_words(tiny_values: dict[str, Any], values: dict[str, Any], told: list[str]) -> None:
    for found, wanted in zip(lines(tiny_values | values), told, strict=True):
        assert found.startswith(wanted)


def test_terminal_escapes_in_a_value_are_told_as_escapes(tiny_values: dict[str, Any]) -> None:
    assert lines(tiny_values | {"seed": "\x1b[31mred"}) == [
        'seed: "\\u001b[31mred" is not a whole number from 0 to 4294967295'
    ]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_no_spec_whatever_is_wrong_with_it_meets_other_words(tiny_values: dict[str, Any], data: st.DataObject) -> None:
    """Whatever stands in whatever key: a spec, or a refusal whose every line begins with a key."""
    values = copy.deepcopy(tiny_values)
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(list(CampaignSpec.model_fields)) | st.text(max_size=6))
        table = values.get(key)
        inner = table[0] if isinstance(table, list) and table else table
        if isinstance(inner, dict) and data.draw(st.booleans()):
            known = st.sampled_from([*sorted(inner), "bits"]) | st.text(max_size=6)
            inner[data.draw(known)] = data.draw(JUNK)
        else:
            values[key] = data.draw(JUNK)
    try:
        parse_spec(values)
    except UsageError:
        for line in lines(values):
            assert re.match(r"^.+?: .", line)
