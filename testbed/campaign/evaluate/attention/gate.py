"""Which paths an engine may take for faults inside the attention subnetwork: those seen to give the whole twin's bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.attention.changes import CHANGES
from testbed.campaign.evaluate.attention.evaluator import AttentionEvaluator, AttentionPaths
from testbed.campaign.evaluate.attention.golden import AttentionGoldens, AttentionTarget, ImageGolden
from testbed.campaign.evaluate.attention.graphs import KINDS, projection_weight, stages
from testbed.campaign.evaluate.attention.rows import USES, FaultyElements
from testbed.campaign.evaluate.attention.stage_engines import Sizes, proven
from testbed.campaign.evaluate.contract import Evaluator, Injections, NotDeterministic
from testbed.campaign.evaluate.suffix.sample import loud_words
from testbed.campaign.proofs import AttentionRecord, SiteProof
from testbed.core.arrays import Float32s
from testbed.core.errors import EngineError
from testbed.instrument.ports.feed import PortFeed
from testbed.semantics import as_words

_IMAGES = 2
_EXACT_PATHS = ("rows", "suffix")


def prove_attention(
    target: AttentionTarget, fallback: Evaluator, images: int, seed: int, faults: int = 48
) -> AttentionRecord:
    """What was seen, applied anywhere with `AttentionPaths.of`; whatever fails stays off.

    images: how many the campaign names; faults: single random bits that are tried per site and path. Sizes of stages are
    tried on golden rows, then paths on faults, all against the whole twin (``fallback``), bit for bit (two NaN are the
    same); incremental results of v and k against their bounds. Raises EngineError when the whole twin fails.
    """
    rng = np.random.default_rng([seed, images])
    rows = sorted(rng.choice(images, size=min(images, _IMAGES, target.batch), replace=False).tolist())
    source = AttentionGoldens(target, fallback.golden, budget=2**62)
    try:
        goldens = source.load(rows)
    except (EngineError, NotDeterministic) as error:
        return AttentionRecord(sizes={}, sites={}, why=str(error))
    finally:
        source.close()
    turned = target.sites.turned
    sizes = proven(stages(target.plain, target.sites), target.open, list(goldens.values()), seed, turned)
    sites = {kind: _proved(target, fallback, kind, sizes, goldens, faults, rng) for kind in KINDS}
    return AttentionRecord(sizes={use: list(batch_sizes) for use, batch_sizes in sizes.items()}, sites=sites, why="")


def _proved(
    target: AttentionTarget,
    fallback: Evaluator,
    kind: str,
    sizes: Sizes,
    goldens: dict[int, ImageGolden],
    faults: int,
    rng: np.random.Generator,
) -> SiteProof:
    """The site's path, and what was seen of each that was tried: mismatching faults, or the share of the bound used."""
    injections = random_flips(target, kind, goldens, faults, rng, loud=1 / 3)
    wanted = _outputs(fallback, injections)
    proven, seen = "whole", dict[str, int | str]()
    for path in _EXACT_PATHS:
        lacking = [use for use in USES[kind] if not sizes[use]]
        if path == "rows" and lacking:
            seen[path] = f"no number of rows or columns gives the whole twin's bits: {', '.join(lacking)}"
            continue
        try:
            outputs = _evaluated(target, fallback, AttentionPaths({kind: path}, sizes), injections)
        except (EngineError, NotDeterministic) as error:
            seen[path] = str(error)
            continue
        seen[path] = int((~_same(outputs, wanted)).sum())
        if not seen[path]:
            proven = path
            break
    if proven != "rows" or kind not in CHANGES:
        return SiteProof.model_validate({"path": proven, "faults": faults, **seen})
    share = _share_of_bound(target, fallback, kind, sizes, injections, wanted, goldens)
    if share is not None and share <= 1:
        proven = "incremental"
    return SiteProof.model_validate({"path": proven, "faults": faults, **seen, "incremental": share})


def random_flips(
    target: AttentionTarget,
    kind: str,
    goldens: dict[int, ImageGolden],
    faults: int,
    rng: np.random.Generator,
    loud: float = 0.0,
) -> Injections:
    """Each at a random element of a random image: one random bit, or, of a share ``loud`` of them, a word so large that it
    overflows in what follows."""
    site = target.sites.site[kind]
    image = rng.choice(list(goldens), size=faults).astype(np.int64)
    index = rng.integers(site.elements, size=faults)
    words = np.array(
        [as_words(goldens[i][kind].reshape(-1))[at] for i, at in zip(image.tolist(), index, strict=True)], np.uint32
    )
    flips = np.uint32(1) << rng.integers(32, size=faults).astype(np.uint32)
    none = np.zeros(faults, np.uint32)
    large = np.arange(faults) < round(loud * faults)
    written = np.where(large, rng.choice(np.array(loud_words(site.format, rng), np.uint32), size=faults), none)
    port = np.full(faults, target.table.ports[site.name], np.int64)
    feed = PortFeed(
        port,
        target.sites.stored_index(kind, index),
        np.where(large, none, ~none),
        written,
        np.where(large, none, flips),
        words,
    )
    return Injections(image, feed)


def _share_of_bound(
    target: AttentionTarget,
    fallback: Evaluator,
    kind: str,
    sizes: Sizes,
    injections: Injections,
    wanted: Float32s,
    goldens: dict[int, ImageGolden],
) -> float | None:
    """Largest |incremental - whole| / bound; None where there is no projection weight to multiply by."""
    weight = projection_weight(target.plain, target.sites)
    if weight is None:
        return None
    never = np.zeros(len(fallback.golden))
    evaluator = AttentionEvaluator(target, fallback, AttentionPaths({kind: "rows"}, sizes), never, 0.0)
    try:
        index = target.sites.index_in(kind, injections.ports.index[:, 0])
        injected = FaultyElements(kind, injections.image, index, injections.ports.faulty[:, 0])
        columns, before = evaluator.rows.columns(injected, goldens), evaluator.rows.golden_columns(injected, goldens)
    finally:
        evaluator.close()
    changes = CHANGES[kind](injected, columns, before, goldens, weight, target.sites)
    usable = np.flatnonzero(changes.usable)
    incremental = changes.outputs(usable, injections.image[usable], fallback.golden).astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.abs(incremental - wanted[usable]).max(axis=(1, 2)) / changes.bound[usable]
    return float(np.nan_to_num(off, nan=np.inf).max(initial=0.0))


def _evaluated(target: AttentionTarget, fallback: Evaluator, paths: AttentionPaths, injections: Injections) -> Float32s:
    evaluator = AttentionEvaluator(target, fallback, paths, np.zeros(len(fallback.golden)), 0.0)
    try:
        return _outputs(evaluator, injections)
    finally:
        evaluator.close()


def _outputs(evaluator: Evaluator, injections: Injections) -> Float32s:
    outputs = np.empty((len(injections), *evaluator.golden.shape[1:]), np.float32)
    for part in _output_parts(evaluator, injections):
        outputs[part[0]] = part[1]
    return outputs


def _output_parts(evaluator: Evaluator, injections: Injections) -> Iterator[tuple[NDArray[np.int64], Float32s]]:
    for part in evaluator.evaluate(injections):
        yield part.rows, part.outputs


def _same(a: Float32s, b: Float32s) -> NDArray[np.bool_]:
    """(n,) whether all elements have the same bits, or are both NaN."""
    equal = (as_words(a) == as_words(b)) | (np.isnan(a) & np.isnan(b))
    return equal.reshape(len(a), -1).all(axis=1)
