"""Every number of a spec has bounds that are told: found by walking the spec's own model, so a new key is tested too."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from testbed.campaign.plan.draw import most_points
from testbed.campaign.plan.table import planned
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.core.errors import UsageError
from testbed.core.site import Site, SiteTable
from testbed.models.config import ViTConfig
from testbed.models.presets import preset
from testbed.models.vit import ViT
from testbed.train import Recipe, recipe

_HUGE = (1 << 31, 10**12, (1 << 63) - 1, 1 << 63, 1 << 70, 10**5000)
_NO_FLOATS = (math.nan, math.inf, -math.inf, 1e39, 1e308)
_TABLES: dict[Any, dict[str, Any]] = {
    "data": {"name": "digits"},
    "stop": {"margin": 0.1},
    "exposure": {"sites": {"*": 1.0}},
}


def _base() -> dict[str, Any]:
    return {
        "name": "bounds",
        "data": {"name": "digits"},
        "model": {"preset": "digits", "recipe": "digits"},
        "faults": [{"target": "model", "where": "weight"}],
    }


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of: of unions each, of tuples that of their items in a list."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    elif origin is tuple:
        yield from ([kind] for kind in _kinds(get_args(annotation)[0]))
    elif origin is dict:
        yield from ({"*": kind} for kind in _kinds(get_args(annotation)[1]))
    elif origin is not Literal:
        yield annotation


def _numbers(model: type[BaseModel], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path of a key, its kind) for every number: int, float, or one of these in a list or a table."""
    for key, field in model.model_fields.items():
        name = field.alias or key
        for kind in _kinds(field.annotation):
            inner = (
                next(iter(kind.values() if isinstance(kind, dict) else kind))
                if isinstance(kind, (list, dict))
                else kind
            )
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _numbers(inner, (*path, name, 0) if isinstance(kind, list) else (*path, name))
            elif inner in (int, float):
                yield (*path, name), kind


NUMBERS = list(_numbers(CampaignSpec))


def _with(path: tuple[Any, ...], kind: Any, number: float) -> dict[str, Any]:
    values = _base()
    place: Any = values
    for part in path[:-1]:
        place = place[part] if isinstance(part, int) else place.setdefault(part, dict(_TABLES.get(part, {})))
        if isinstance(place, tuple):
            place = place[0]
    place[path[-1]] = [number] if isinstance(kind, list) else {"*": number} if isinstance(kind, dict) else number
    return values


def _refused(values: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        parse_spec(values)
    told = str(caught.value)
    assert all(len(line) < 400 for line in told.split("\n"))
    return told


def test_the_walk_finds_what_there_is() -> None:
    names = {".".join(map(str, path)) for path, _ in NUMBERS}
    assert {"seed", "confidence", "tiers.images", "engine.batch", "faults.0.per_stratum", "stop.margin"} <= names
    assert {"exposure.sites", "tolerance.atol", "tolerance.rtol_grid", "gates.zero_fault_rows", "data.images"} <= names


@pytest.mark.parametrize(("path", "kind"), NUMBERS, ids=lambda value: str(value))
def test_numbers_beyond_any_use_are_refused(path: tuple[Any, ...], kind: Any) -> None:
    whole = int in (kind, *(kind if isinstance(kind, list) else ()))
    if path == ("seed",):
        beyond: tuple[float, ...] = (1 << 32, *_HUGE[1:])
    elif path == ("exposure", "sites"):
        beyond = _NO_FLOATS
    else:
        beyond = (*_HUGE, *_NO_FLOATS) if whole else _NO_FLOATS
    for number in (*beyond, -1):
        assert str(path[-1]) in _refused(_with(path, kind, number)), number


@pytest.mark.parametrize("key", [field.name for field in fields(ViTConfig) if "int" in str(field.type)])
def test_so_are_those_of_the_model(key: str) -> None:
    for number in (*_HUGE, *_NO_FLOATS, -1):
        with pytest.raises(UsageError, match=key):
            preset("digits", **{key: number})


@pytest.mark.parametrize(("key", "kind"), [(f.name, f.type) for f in fields(Recipe) if f.type in ("int", "float")])
def test_so_are_those_of_the_recipe(key: str, kind: str) -> None:
    for number in (*(_HUGE[:-1] if kind == "int" else ()), *_NO_FLOATS, -1):
        with pytest.raises(UsageError, match=key):
            recipe("digits", **{key: number})


@pytest.mark.parametrize(
    "overrides",
    [
        {"width": 65536, "mlp": 1 << 18, "heads": 1024},
        {"heads": [2] * 512, "mlp": [1 << 18] * 512, "width": 65536},
        {"image": 8192, "patch": 1},
    ],
)
def test_a_model_that_no_memory_holds_is_refused_before_it_is_made(overrides: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="of memory, of which"):
        ViT(preset("digits", **overrides))


def test_the_reason_is_told() -> None:
    told = _refused(_with(("engine", "batch"), int, 10**9))
    assert "engine.batch" in told
    assert "at most 8,192: the images of one inference are held at once; not 1,000,000,000" in told


def test_a_plan_without_end_is_refused_before_it_is_drawn() -> None:
    table = SiteTable("model", "", "", (Site("embed", "activation", (4,)),))
    values = _base()
    values["faults"] = [{"target": "model", "where": "activation", "ops": ["random"], "per_stratum": (1 << 31) - 1}]
    with pytest.raises(UsageError, match=r"the plan would have 2,147,483,647 faults; ask for fewer"):
        next(planned(parse_spec(values), {"model": table}, [["image"]]))
    values["faults"][0] |= {"ops": ["flip"]}  # of which there are 4 x 32
    assert next(planned(parse_spec(values), {"model": table}, [["image"]])).faults.num_rows == 128


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ({"pattern": "sites", "count": 1 << 24}, "needs as many sites; the section's patterns name 1"),
        ({"pattern": "burst", "length": 1 << 24}, "site embed is too small for pattern"),
    ],
)
def test_a_pattern_larger_than_the_model_is_told_at_once(pattern: dict[str, Any], told: str) -> None:
    table = SiteTable("model", "", "", (Site("embed", "activation", (4,)),))
    values = _base() | {"engine": {"ports": "op"}}
    values["faults"] = [{"target": "model", "where": "activation", "ops": ["flip"], **pattern}]
    spec = parse_spec(values)
    assert most_points(spec.faults, table) <= 4  # what an engine lays out its memory for
    with pytest.raises(UsageError, match=told):
        next(planned(spec, {"model": table}, [["image"]]))
