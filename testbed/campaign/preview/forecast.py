"""What an adaptive campaign is likely to cost, before anything is run: it is played out on rates like those of another model.

Nobody knows the rates beforehand; how they lie among the bits is much the same in trained ViTs, and that is what strata save.
Rates per bit class are those of single flips in the six-block CIFAR-10 ViT (docs/results.md). Where they do not apply
(integers, patterns, random words), every stratum is taken to have the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from testbed.analysis.adaptive.simulation import Design, faults_needed
from testbed.analysis.stratified import SamplingFrame
from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.plan.groups import Group
from testbed.core.arrays import Float64s

RATES: dict[tuple[str, str], dict[str, float]] = {
    ("activation", "sdc1"): {"exponent_top": 0.21, "exponent": 6e-4, "sign": 1e-4},
    ("activation", "outside"): {"exponent_top": 0.76, "exponent": 0.38, "sign": 0.44, "mantissa_high": 0.05},
    ("weight", "sdc1"): {"exponent_top": 0.64, "exponent": 1e-4, "sign": 1e-4},
    ("weight", "outside"): {"exponent_top": 1.0, "exponent": 0.45, "sign": 0.45, "mantissa_high": 0.1},
}
_CAMPAIGNS = 24
_UNKNOWN = 0.05  # mean rate where none is said
_MOST_STRATA = 20_000  # that are played out one by one; of more, those of a domain and a class as one


@dataclass(frozen=True)
class Forecast:
    """Mean faults of each domain (D,): as planned, and drawn uniformly until the same rule stops. alike: whether bits were
    taken to fail as in ``RATES``; rates: (D,)."""

    faults: Float64s
    uniform: Float64s
    rates: Float64s
    alike: bool


def forecast(planner: AdaptivePlanner, rate: float | None = None) -> Forecast:
    """Play the campaign out. rate: mean of each domain, if one is said.

    Strata by golden value are not known yet: campaigns that have them need fewer faults still.
    """
    profile = [_rate_of(group, planner.stop.measure) for group in planner.groups]
    alike = None not in profile
    rates = np.array([share if alike else 1.0 for share in profile], np.float64)
    frame = planner.frame
    if rate is not None or not alike:
        rates = _scaled(frame, rates, _UNKNOWN if rate is None else rate)
    frame, rates = _small(frame, rates)
    rule = replace(planner.stop.rule(planner.spec.confidence), max_faults=np.inf)

    def needed(design: Design) -> Float64s:
        return faults_needed(frame, rates, rule, design, _CAMPAIGNS).middle

    return Forecast(needed("adaptive"), needed("uniform"), frame.sums(frame.share * rates), alike)


def _scaled(frame: SamplingFrame, rates: Float64s, wanted: float) -> Float64s:
    """Rates in the same proportions whose mean in each domain is as wanted; what exceeds 1 is shared out evenly."""
    mean = frame.sums(frame.share * rates)[frame.domain]
    scaled = np.minimum(rates * wanted / np.maximum(mean, 1e-12), 1)
    reached = frame.sums(frame.share * scaled)
    missing = np.clip((wanted - reached) / np.maximum(1 - reached, 1e-12), 0, 1)
    return np.minimum(scaled + (1 - scaled) * missing[frame.domain], 1)


def _rate_of(group: Group, measure: str) -> float | None:
    """Mean rate of a group's faults; None where nothing like it was measured."""
    known = RATES[group.model.where, measure]
    if group.model.op != "flip" or group.model.pattern != "single":
        return None
    total = 0.0
    for _, stratum in group.members:
        bit_class = stratum.site.format.bit_class(stratum.bit)
        if stratum.site.format.mantissa == 0:
            return None
        total += stratum.size * known.get(bit_class, 0.0)
    return total / group.population


def _small(frame: SamplingFrame, rates: Float64s) -> tuple[SamplingFrame, Float64s]:
    """The frame, or that of its classes where it has very many strata."""
    if len(frame) <= _MOST_STRATA:
        return frame, rates
    classes = frame.classes
    total = np.bincount(frame.class_of, frame.population * rates)
    return classes, total / classes.population


def reasons(planner: AdaptivePlanner, expected: Forecast) -> Iterator[str]:
    """What the forecast rests on, a clause each."""
    if expected.alike:
        for where in dict.fromkeys(group.model.where for group in planner.groups):
            known = RATES[where, planner.stop.measure]
            shares = ", ".join(f"{name} {100 * share:.2g} %" for name, share in known.items())
            yield f"bits of {where}s are taken to fail as in the six-block CIFAR-10 ViT ({shares})"
    else:
        yield "all strata are taken to fail alike"
    yield f"so that rates are {_range(expected.rates)}"
    if "value" in planner.stop.sampled_by:
        yield "strata by golden value, which are not known yet, save about a quarter more"


def _range(rates: Sequence[float] | Float64s) -> str:
    low, high = 100 * float(np.min(rates)), 100 * float(np.max(rates))
    return f"{low:.2g} %" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g} %"
