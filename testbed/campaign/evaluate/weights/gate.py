"""The gate of weight suffixes: the same bits as the whole engine with the same weights struck, or they stay off."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import FaultyRun, RunWhole, same_words
from testbed.campaign.evaluate.weights.entry_points import Start
from testbed.campaign.evaluate.weights.evaluator import WeightShortcuts, WeightSuffix
from testbed.campaign.proofs import WeightRecord, WeightTrial
from testbed.core.errors import EngineError
from testbed.core.site import Site
from testbed.engines.runner import WeightFault
from testbed.instrument.cut.flow import CannotCut
from testbed.semantics import as_words

MakeWeightSuffix = Callable[[WeightShortcuts], WeightSuffix]
_PLANS = tuple(WeightShortcuts(start, last) for last in (True, False) for start in get_args(Start))


_PER_KIND = 2
_NAMELESS = 6  # tensors of a kind whose names say only where the exporter counted: several kinds may be among them


@dataclass(frozen=True)
class WeightProof:
    """``plan``: what may be used; None where nothing may. ``record``: what was seen."""

    plan: WeightShortcuts | None
    record: WeightRecord


def prove_weights(
    make: MakeWeightSuffix, whole: RunWhole, sites: Sequence[Site], seed: int, per_site_kind: int = _PER_KIND
) -> WeightProof:
    """Strikes a seeded sample of weights of every kind in the first, a middle and the last block, both ways.

    make: suffixes by a plan, over the same images and golden as ``whole``. sites: the weights that the campaign strikes.
    Every second fault is in two tensors; scales and zero points, of which 8-bit models have most, get fewer. The
    first plan that gives equal bits for all, and for the golden of every suffix before and after, is taken. Raises
    EngineError when the whole engine fails.
    """
    faults = list(_sample(sites, per_site_kind, seed))
    wanted = [whole(fault) for fault in faults]
    golden = whole([]).outputs
    tried: list[WeightTrial] = []
    for plan in _PLANS:
        try:
            suffix = make(plan)
        except CannotCut as error:
            tried.append(WeightTrial(plan=plan.record(), wrong=str(error)))
            continue
        try:
            wrong = _wrong(suffix, faults, wanted, golden)
        except (EngineError, CannotCut) as error:
            wrong = str(error)
        finally:
            suffix.close()
        tried.append(WeightTrial(plan=plan.record(), wrong=wrong))
        if not wrong:
            return WeightProof(plan, WeightRecord(plan=plan.record(), faults=len(faults), tried=tried))
    return WeightProof(None, WeightRecord(plan=None, faults=len(faults), tried=tried))


def _wrong(suffix: WeightSuffix, faults: list[list[WeightFault]], wanted: list[FaultyRun], golden: NDArray) -> str:
    """What differs; empty where nothing does."""
    entries = {suffix.entries.before([word.tensor for word in fault]) for fault in faults} - {None}
    if any(not same_words(suffix.golden_by_pieces(str(entry)), golden).all() for entry in entries):
        return "golden of a suffix"
    differ = 0
    for fault, whole in zip(faults, wanted, strict=True):
        run = suffix.inject(fault)
        same = all(_equal(*pair) for pair in zip(run.words, whole.words, strict=True))
        differ += not (same and same_words(run.outputs, whole.outputs).all())
    if differ:
        return f"{differ} of {len(faults)} faults"
    if any(not same_words(suffix.golden_by_pieces(str(entry)), golden).all() for entry in entries):
        return "golden of a suffix after its weights were restored"
    return ""


def _equal(left: tuple[NDArray, NDArray], right: tuple[NDArray, NDArray]) -> bool:
    return all(np.array_equal(as_words(a), as_words(b)) for a, b in zip(left, right, strict=True))


def trial_count(sites: Sequence[Site], per_kind: int = _PER_KIND) -> int:
    """How many faults `prove_weights` runs both ways."""
    return sum(1 + (per_kind if site.elements > 1 else 1) for site in _of_each_kind(sites))


def _sample(faulty: Sequence[Site], per_kind: int, seed: int) -> Iterator[list[WeightFault]]:
    rng = np.random.default_rng([seed, per_kind, 1])
    sites = list(_of_each_kind(faulty))
    for site in sites:
        for number in range(per_kind if site.elements > 1 else 1):
            other = sites[int(rng.integers(len(sites)))]
            both = number % 2 and other.tensor != site.tensor
            yield [_flip(faulty, rng) for faulty in ([site, other] if both else [site])]
        yield [_flip(site, rng, site.format.bits - 2)]  # small numbers become so large that they overflow


def _of_each_kind(faulty: Sequence[Site]) -> Iterator[Site]:
    """The first, a middle and the last of each kind, and more where a kind's name is only a number of the exporter's."""
    by_kind: dict[str, list[Site]] = {}
    for site in faulty:
        name = site.name.removeprefix(f"block.{site.block}.")
        by_kind.setdefault(re.sub(r"_\d+", "_#", name), []).append(site)
    for kind, sites in by_kind.items():
        places = np.linspace(0, len(sites) - 1, _NAMELESS if "_#" in kind else 3).round().astype(int)
        yield from dict.fromkeys(sites[int(position)] for position in places)


def _flip(site: Site, rng: np.random.Generator, which: int | None = None) -> WeightFault:
    """A flip, of a random bit unless said."""
    index = site.stored_index(int(rng.integers(site.elements)))
    full = (1 << site.format.bits) - 1
    bit = 1 << (int(rng.integers(site.format.bits)) if which is None else which)
    masks = (np.array([mask], np.uint32) for mask in (full, 0, bit))
    return WeightFault(site.tensor, np.array([index]), *masks)
