"""The groups of an adaptive campaign as a sampling frame: which domain each is of, and what it learns its variance with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.stratified import SamplingFrame
from testbed.campaign.plan.groups import Group, Values
from testbed.campaign.spec.stop import StopSpec
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError
from testbed.core.fault import FaultModel

_PROXY_CLASSES = 5


def check_bits(groups: Sequence[Group], stop: StopSpec) -> None:
    """Bit 7 is a sign in int8 and a mantissa bit in fp32: one rate of both is a rate of nothing."""
    if "bit" not in stop.domains or "site" in stop.domains:
        return
    formats: dict[FaultModel, set[str]] = {}
    for group in groups:
        formats.setdefault(group.model, set()).update(stratum.site.format_name for _, stratum in group.members)
    for model, names in formats.items():
        if len(names) > 1 and model.op != "random":
            raise UsageError(
                f"stop.per: {model.op} faults strike words in {' and '.join(sorted(names))}, whose bits have nothing to do"
                ' with one another; ask for rates per "bit_class" or "site x bit"'
            )


def sampling_frame(
    groups: Sequence[Group], stop: StopSpec, scores: Float64s | None
) -> tuple[SamplingFrame, list[tuple[FaultModel, Values]]]:
    """The groups as strata, and the domains in the order in which they are numbered."""
    dimensions = stop.sampled_by
    domain_at = [dimensions.index(dimension) for dimension in stop.domains]
    domains: dict[tuple[FaultModel, Values], int] = {}
    classes: dict[Any, int] = {}
    ranks = np.zeros(len(groups), np.int64) if scores is None else _ranks(groups, scores)
    steered_by = [at for at, dimension in enumerate(dimensions) if dimension in stop.steered_by]
    codes = np.zeros((2, len(groups)), np.int64)
    for h, group in enumerate(groups):
        key = (group.model, tuple(group.values[at] for at in domain_at))
        alike = (group.model, tuple(group.values[at] for at in steered_by), int(ranks[h]))
        codes[:, h] = domains.setdefault(key, len(domains)), classes.setdefault(alike, len(classes))
    population = np.array([group.population for group in groups], np.float64)
    endless = np.array([group.endless for group in groups])
    return SamplingFrame(population, codes[0], codes[1], endless), list(domains)


def _ranks(groups: Sequence[Group], scores: Float64s) -> NDArray[np.int64]:
    """(groups,) which fifth of its fault model's groups each one's score is in."""
    if len(scores) != len(groups):
        raise ValueError(f"{len(scores)} scores were given for {len(groups)} groups")
    models = [group.model for group in groups]
    ranks = np.zeros(len(groups), np.int64)
    for model in dict.fromkeys(models):
        of_model = np.array([other == model for other in models])
        rank = np.searchsorted(np.sort(scores[of_model]), scores[of_model])
        ranks[of_model] = rank * _PROXY_CLASSES // int(of_model.sum())
    return ranks
