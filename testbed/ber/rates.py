"""Bit-error rates: every bit of the chosen weights flips with one probability, and the model is asked about every image.

As when memory is run below its safe voltage or refreshed too seldom: many flips at once, where a campaign's faults are
one at a time. The flips of one repeat are one fault: its images are a cluster, and intervals are over repeats.

Without any flip the outputs are the golden ones, and how probable that is is known. So what is estimated is the mean over
the repeats with flips, and weighed by their probability: p = (1 - P) golden + P p_flips, P = 1 - (1 - rate)^bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.bounded import bounded_mean_interval
from testbed.analysis.outputs.confidence import top1
from testbed.ber.record import BitErrorRate, FlipCount, RateOverRepeats
from testbed.campaign.evaluate.weights.in_place import weight_canary
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import NamedImages
from testbed.campaign.plan.draw import seed_of
from testbed.campaign.plan.points import stored_indices
from testbed.core.errors import EngineError, UsageError
from testbed.core.site import Site
from testbed.engines.runner import WeightFault, WeightInjector, faulty_weights

_CANARY_IMAGES = 32


class FlipSweep(NamedTuple):
    """What flips in the weights do: accuracy without any, the bits that can flip, and what is left at each rate."""

    accuracy: float
    bits: int
    rates: list[BitErrorRate]


def ber_sweep(
    engine: CampaignEngine,
    sites: Sequence[Site],
    rates: Sequence[float],
    repeats: int,
    seed: int,
    confidence: float,
    advance: Callable[[int], None] = lambda images: None,
) -> FlipSweep:
    """Accuracy against the labels, and SDC-1 against the engine's golden, at each rate.

    engine: of weights, with the images to ask about. rates: probability of each bit to flip. Each repeat has flips of its
    own, which depend on (seed, rate, repeat, site) alone. ``advance`` is called with the images that were run. Raises
    UsageError for a rate that is no probability, EngineError for a weight that is not heard or not restored.
    """
    for rate in rates:
        if not 0 <= rate <= 1:
            raise UsageError(f"a bit-error rate is a probability, from 0 to 1; {rate} is not")
    if repeats < 2:
        raise UsageError(f"intervals are over repeats: two at least, not {repeats}")
    _check_heard(engine, sites)
    accuracy = _accuracy(engine.side.stored, engine)
    measured = [_at(engine, sites, rate, repeats, seed, confidence, advance) for rate in rates]
    if engine.outputs().tobytes() != engine.golden.tobytes():
        raise EngineError("the engine's output is not restored after the flipped bits were put back")
    return FlipSweep(accuracy, _bits(sites), measured)


def _at(
    engine: CampaignEngine,
    sites: Sequence[Site],
    rate: float,
    repeats: int,
    seed: int,
    confidence: float,
    advance: Callable[[int], None],
) -> BitErrorRate:
    runner = engine.runner
    assert isinstance(runner, WeightInjector)
    labels, golden = engine.images.labels, top1(engine.side.stored)
    flips, predictions, nonfinite, alarms = [], [], [], []
    for repeat in range(repeats):
        faults = flipped(sites, rate, seed, repeat)
        flips.append(int(sum(np.bitwise_count(fault.xor_mask).sum() for fault in faults)))
        with faulty_weights(runner, faults):
            outputs, alarmed = engine.judged(engine.outputs())
        predictions.append(top1(outputs))
        alarms.append(np.zeros(len(outputs), bool) if alarmed is None else alarmed)
        nonfinite.append(~np.isfinite(outputs).all(axis=1))
        advance(len(outputs))
    predicted, detected = np.stack(predictions), np.stack(alarms)
    faulty = FlippedRepeats(np.array(flips) > 0, _probability(rate, _bits(sites)))

    def over_repeats(seen: NDArray[np.bool_], unflipped: NDArray[np.bool_]) -> RateOverRepeats:
        return rate_over_repeats(seen, unflipped, faulty, confidence)

    clean = engine.judged(engine.golden).alarms
    return BitErrorRate(
        rate=rate,
        flips=FlipCount(mean=float(np.mean(flips)), least=min(flips), most=max(flips)),
        accuracy=over_repeats(predicted == labels, golden == labels),
        sdc1=over_repeats((predicted != golden) & ~detected, np.zeros(len(golden), bool)),
        nonfinite=over_repeats(np.stack(nonfinite), np.asarray(~np.isfinite(engine.side.stored).all(axis=1))),
        **({} if clean is None else {"detected": over_repeats(detected, clean)}),
    )


class FlippedRepeats(NamedTuple):
    """Which repeats had flips (repeats,), and how probable that is."""

    repeats: NDArray[np.bool_]
    probability: float


def _bits(sites: Sequence[Site]) -> int:
    return sum(site.elements * site.format.bits for site in sites)


def _probability(rate: float, bits: int) -> float:
    """Probability of at least one flip."""
    return 1.0 if rate == 1 else -math.expm1(bits * math.log1p(-rate))


def flipped(sites: Sequence[Site], rate: float, seed: int, repeat: int) -> list[WeightFault]:
    """The flips of one repeat: of each site's bits a binomial number, at places drawn without replacement."""
    places = []
    for site in sites:
        rng = np.random.default_rng(seed_of(seed, f"ber/{rate!r}/{site.name}", repeat))
        width = site.format.bits
        flips = int(rng.binomial(site.elements * width, rate))
        if not flips:
            continue
        at = rng.choice(site.elements * width, size=flips, replace=False, shuffle=False)
        elements, which = np.unique(at // width, return_inverse=True)
        turn = np.zeros(len(elements), np.uint32)
        np.bitwise_or.at(turn, which, np.left_shift(1, at % width).astype(np.uint32))
        none = np.zeros(len(elements), np.uint32)
        places.append(WeightFault(site.tensor, stored_indices(site, elements), ~none, none, turn))
    return places


def rate_over_repeats(
    seen: NDArray[np.bool_], golden: NDArray[np.bool_], faulty: FlippedRepeats, confidence: float
) -> RateOverRepeats:
    """Estimates a rate over repeats. seen: (repeats, images); golden: (images,), what is seen without flips."""
    part, without, share = seen[faulty.repeats].mean(axis=1), float(golden.mean()), faulty.probability
    limits = bounded_mean_interval(part, confidence)
    bounds = [float(bounded_mean_interval(part, 2 * level - 1).high) for level in (0.95, 0.99)]  # one-sided
    with_flips = [float(part.mean()) if len(part) else without, float(limits.low), float(limits.high), *bounds]
    rate, low, high, high_95, high_99 = ((1 - share) * without + share * value for value in with_flips)
    return RateOverRepeats(
        rate=rate, low=low, high=high, high_95=high_95, high_99=high_99, per_repeat=seen.mean(axis=1).tolist()
    )


def _accuracy(outputs: NDArray[np.float32], engine: CampaignEngine) -> float:
    return float((top1(outputs) == engine.images.labels).mean())


def _check_heard(engine: CampaignEngine, sites: Sequence[Site]) -> None:
    """One loud fault per tensor, on a few images."""
    images, some = engine.images, slice(0, _CANARY_IMAGES)
    few = NamedImages(images.ids[some], images.labels[some], images.tiers[some], images.positions[some])
    weight_canary(replace(engine, images=few), sites)
