"""Strata put together as asked: "site x bit_class" unites the bits of a class, and the tiers, of each site and operation.

A group never mixes fault models: every one is of one target, place, operation, pattern and scope.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.plan.draw import Stratum
from testbed.campaign.plan.sections import sampled_strata
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.spec.stop import StopDimension
from testbed.core.fault import FaultModel, Scope
from testbed.core.site import SiteTable

Values = tuple[Any, ...]


def model_of(stratum: Stratum) -> FaultModel:
    scope: Scope = "persistent" if stratum.persistent else "inference"
    return FaultModel(stratum.target, stratum.site.where, stratum.op, stratum.pattern, scope)


def values_of(stratum: Stratum, by: Sequence[StopDimension]) -> Values:
    """What a stratum is along each dimension; None where it is nothing, such as the block of the head."""
    return tuple(_value(stratum, dimension) for dimension in by)


def _value(stratum: Stratum, dimension: StopDimension) -> Hashable:
    site = stratum.site
    if dimension == "tier":
        return stratum.tier
    if dimension == "bit":
        return stratum.bit
    if dimension == "bit_class":
        return site.format.bit_class(stratum.bit)
    if dimension == "value":
        return None if stratum.within is None else stratum.within.name
    if stratum.sites:  # several are struck, and this is none of them
        return None
    return {"site": lambda: site.name, "kind": lambda: site.kind, "block": lambda: site.block}[dimension]()


@dataclass(frozen=True)
class Group:
    """Strata that are sampled as one, uniformly. values: along the dimensions that it was put together by.

    name: what its draws are seeded by. members: each with its place among all strata of the campaign.
    """

    model: FaultModel
    values: Values
    name: str
    members: tuple[tuple[int, Stratum], ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(members + 1,) where each member's faults begin among the group's."""
        return np.cumsum([0, *(stratum.size for _, stratum in self.members)], dtype=np.int64)

    @property
    def population(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def endless(self) -> bool:
        """Whether more faults can be drawn than the population counts: see `Stratum.endless`. Faults that are run on some of
        the images can be drawn again, with others: however many were, the rate is never known for certain."""
        return any(stratum.endless or stratum.image_sample is not None for _, stratum in self.members)


def all_strata(
    spec: CampaignSpec, tables: Mapping[str, SiteTable], tier_images: Sequence[Sequence[str]]
) -> Iterator[Stratum]:
    """Every stratum of the campaign, in the order of the plan. tier_images: ids of the named images per tier."""
    return (sampled.stratum for sampled in sampled_strata(spec.faults, tables, tier_images))


def grouped(strata: Iterable[Stratum], by: Sequence[StopDimension]) -> list[Group]:
    """Groups strata; groups are in the order of their first strata."""
    members: dict[tuple[FaultModel, Values], list[tuple[int, Stratum]]] = {}
    for number, stratum in enumerate(strata):
        members.setdefault((model_of(stratum), values_of(stratum, by)), []).append((number, stratum))
    return [
        Group(model, values, _name(model, values, by, own[0][1]), tuple(own))
        for (model, values), own in members.items()
    ]


def _name(model: FaultModel, values: Values, by: Sequence[StopDimension], first: Stratum) -> str:
    """Bits go by their role, so that campaigns in two precisions draw the same faults."""
    fmt = first.site.format
    parts = [fmt.role_name(value) if dimension == "bit" else value for dimension, value in zip(by, values, strict=True)]
    return "/".join(map(str, (*model, *parts)))
