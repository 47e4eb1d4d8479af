"""Whether the rows of a batch leave each other alone: a row's bits must not depend on its place or on its company.

A reduction over the batch (one dynamic scale for all rows), or a kernel whose order of summation depends on where a row
lies in memory, breaks it: what a fault then does to its own row depends on the faults of the others. Such an engine is
run one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.folder.engine import CampaignEngine
from testbed.core.errors import GateFailed
from testbed.core.fault import masks_for
from testbed.core.formats import Format
from testbed.core.site import Site
from testbed.engines.runner import WeightInjector, faulty_weight
from testbed.instrument.ports.feed import NO_SITE, PortFeed
from testbed.semantics import as_words

PLACE = "the same row gives other bits elsewhere in the batch, or beside other fault-free rows"
LOUD = "a row gives other bits beside rows of large, infinite or NaN inputs"
BESIDE_FAULTS = "a row gives other bits beside rows in which faults were injected"
NOT_DETERMINISTIC = "the same batch, run twice, gives other bits: this engine is not deterministic; try threads = 1"
_TRIES = 5
_LOUD = {  # NaN, both infinities, the largest numbers, a large one
    "fp32": (0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x501502F9),
    "fp16": (0x7E00, 0x7C00, 0xFC00, 0x7BFF, 0xFBFF, 0x7000),
    "bf16": (0x7FC0, 0x7F80, 0xFF80, 0x7F7F, 0xFF7F, 0x5015),
}
_LOUD_INPUTS = (1e3, -1e3, 1e30, np.inf, np.nan)


def input_influence(run: Callable[[NDArray[np.float32]], NDArray], images: NDArray[np.float32], seed: int) -> str:
    """Why rows of a plain engine influence each other; empty where nothing shows that they do.

    images: (n, ...); run: one batch of n. Rows are fed in other places, and beside loud ones (large, infinite, NaN).
    Raises GateFailed where the same batch twice gives other bits.
    """
    rng, n = np.random.default_rng([seed, len(images)]), len(images)
    if n == 1:
        return ""
    with np.errstate(all="ignore"):
        golden = run(images)
        if not same_rows(run(images), golden).all():
            raise GateFailed(NOT_DETERMINISTIC)
        for number in range(_TRIES):
            order = rng.permutation(n)
            if not same_rows(run(images[order]), golden[order]).all():
                return PLACE
            loud = rng.random(n) < 0.5
            beside = images.copy()
            beside[loud] *= np.float32(_LOUD_INPUTS[number % len(_LOUD_INPUTS)])
            if not same_rows(run(beside)[~loud], golden[~loud]).all():
                return LOUD
    return ""


def row_influence(engine: CampaignEngine, seed: int) -> str:
    """The same of an engine that faults are injected into: with faults in the other rows, or, of weights, for all.

    Raises GateFailed where the same batch twice gives other bits.
    """
    if engine.batch == 1:
        return ""
    rng = np.random.default_rng([seed, engine.batch, len(engine.images)])
    return _beside_faults(engine, rng) if engine.where == "activation" else _under_faults(engine, rng)


def _beside_faults(engine: CampaignEngine, rng: np.random.Generator) -> str:
    golden, size = engine.golden, engine.batch
    sites = [site for site in engine.table if site.where == "activation"]
    if why := _elsewhere(engine, golden, rng, PortFeed.idle(size)):
        return why
    for _ in range(_TRIES):
        rows, loud = rng.integers(len(golden), size=size), rng.random(size) < 0.5
        loud[rng.integers(size)] = True
        faults = _loud(engine, sites, loud, rng)
        outputs = engine.run(rows, faults)[0]
        if not same_rows(outputs[~loud], golden[rows[~loud]]).all():
            return BESIDE_FAULTS
        # the struck rows themselves, in other places and with most of their company at rest
        order = rng.permutation(size)
        kept = loud[order] & (rng.random(size) < 0.25)
        alone = np.where(kept, order, -1)
        site = np.where(kept[:, None], faults.site[order], NO_SITE)
        again = engine.run(rows[order], PortFeed.writing(site, faults.index[order], faults.or_mask[order]))[0]
        if not same_rows(again[kept], outputs[alone[kept]]).all():
            return BESIDE_FAULTS
    return ""


def _under_faults(engine: CampaignEngine, rng: np.random.Generator) -> str:
    """Weights are struck for all rows alike, so only places and fault-free company change."""
    if why := _elsewhere(engine, engine.golden, rng, None):
        return why
    sites, runner = [site for site in engine.table if site.where == "weight"], engine.runner
    assert isinstance(runner, WeightInjector)
    for site in rng.choice(np.array(sites, object), size=min(_TRIES, len(sites)), replace=False):
        index = site.stored_index(int(rng.integers(site.elements)))
        with faulty_weight(runner, site.tensor, index, masks_for("flip", site.format, site.format.bits - 2)):
            faulty = engine.outputs()
            rows = rng.integers(len(faulty), size=engine.batch)
            if not same_rows(engine.run(rows, None)[0], faulty[rows]).all():
                return BESIDE_FAULTS
    return ""


def _elsewhere(
    engine: CampaignEngine, golden: NDArray[np.float32], rng: np.random.Generator, ports: PortFeed | None
) -> str:
    """Fault-free rows in other places, until every image had some."""
    every = np.arange(len(golden))
    order = np.concatenate([rng.permutation(every) for _ in range(_TRIES)])
    for start in range(0, len(order), engine.batch):
        rows = np.resize(order[start : start + engine.batch], engine.batch)
        outputs = engine.run(rows, ports)[0]
        if not same_rows(outputs, golden[rows]).all():
            if not same_rows(engine.run(rows, ports)[0], outputs).all():
                raise GateFailed(NOT_DETERMINISTIC)
            return PLACE
    return ""


def _loud(engine: CampaignEngine, sites: list[Site], injected: NDArray[np.bool_], rng: np.random.Generator) -> PortFeed:
    """A loud word each at a random element of a random site, in these rows."""
    site, index = np.full(len(injected), NO_SITE, np.int64), np.zeros(len(injected), np.int64)
    words = np.zeros(len(injected), np.uint32)
    for row in np.flatnonzero(injected):
        chosen = sites[int(rng.integers(len(sites)))]
        site[row], index[row] = engine.table.ports[chosen.name], int(rng.integers(chosen.elements))
        words[row] = _word(chosen.format, rng)
    return PortFeed.writing(site, index, words)


def _word(form: Format, rng: np.random.Generator) -> int:
    known = _LOUD.get(form.name, ((1 << form.bits - 1) - 1, 1 << form.bits - 1))
    return int(known[int(rng.integers(len(known)))])


def same_rows(a: NDArray, b: NDArray) -> NDArray[np.bool_]:
    """(n,) whether all elements have the same bits, or are both NaN."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    equal = (as_words(a) == as_words(b)) | (np.isnan(a) & np.isnan(b))
    rows: NDArray[np.bool_] = equal.all(axis=tuple(range(1, equal.ndim)))
    return rows
