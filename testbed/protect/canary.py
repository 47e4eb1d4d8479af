"""Canaries: a fault put under every check and copy of a built engine, which has to show.

What an engine folds away, merges or never evaluates is found here, not in a campaign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto

from testbed.core.arrays import Float32s
from testbed.core.errors import GateFailed
from testbed.core.fault import Masks
from testbed.core.protected import DETECTED, PREFIX
from testbed.core.site import Site, SiteTable
from testbed.engines.runner import EngineRequest, WeightInjector, faulty_weight, open_engine
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from testbed.protect.contract import Applied, ProtectedPlace

_LOUD = {  # 1e30, the largest fp16, 1e30; of integers the end that is further away from what is there
    "fp32": (0x7149F2CA,),
    "fp16": (0x7BFF,),
    "bf16": (0x7149,),
    "int8": (0x7F, 0x80),
    "uint8": (0xFF, 0x00),
}
_INTEGERS = ("int8", "uint8")
_ROWS = 8


@dataclass(frozen=True)
class Canary:
    """How many faults were put in on an engine, each of which had to show and did.

    unseen: weights of 8 bits in which it did not: what one of them can change is less than the rounding of a product.
    """

    engine: str
    activations: int
    weights: int
    unseen: tuple[str, ...] = ()


def fly(proto: ModelProto, applied: Sequence[Applied], image: Float32s, engine: str, precision: str) -> Canary:
    """Put one loud value under each check, and one into a weight of each checked product.

    image: (1, C, S, S). Raises GateFailed naming the check that did not see it.
    """
    plain = proto.SerializeToString()
    table = site_table(plain, "model")
    watched = _watched(table, applied)
    _activations(plain, table, watched, image, engine, precision)
    weights, unseen = _weights(proto, table, applied, image, engine, precision)
    return Canary(engine, len(watched), weights, unseen)


def _watched(table: SiteTable, applied: Sequence[Applied]) -> list[tuple[str, ProtectedPlace, Site]]:
    """Each detecting spot with a site that it covers; an activation's range is only of sums, so of its largest value."""
    sites = {site.name: site for site in table if site.where == "activation"}
    chosen = []
    for done in applied:
        for spot in done.places:
            covered = [sites[name] for name in spot.covers if name in sites]
            if covered and spot.kind not in ("guard", "vote"):
                chosen.append((done.name, spot, covered[-1]))
    return chosen


def _activations(
    plain: bytes,
    table: SiteTable,
    watched: Sequence[tuple[str, ProtectedPlace, Site]],
    image: Float32s,
    engine: str,
    precision: str,
) -> None:
    if not watched:
        return
    twin = instrument(plain, table).SerializeToString(deterministic=True)
    request = EngineRequest.of_bytes(twin, table.deployment_id, precision=precision, max_batch=_ROWS)
    name = onnx.load_from_string(plain).graph.input[0].name
    images = np.repeat(image, _ROWS, axis=0)
    faults = [(at, word) for at, (*_, site) in enumerate(watched) for word in _LOUD[site.format_name]]
    seen = np.zeros(len(watched), bool)
    with open_engine(engine, request) as runner:
        for start in range(0, len(faults), _ROWS - 1):  # the last row is left alone
            some = faults[start : start + _ROWS - 1]
            ports = _loud(table, [(watched[at][2], word) for at, word in some])
            detected = runner.run({name: images, **ports.as_inputs(table)})[DETECTED]
            for (at, _), alarm in zip(some, detected, strict=False):
                seen[at] |= alarm
            if detected[len(some) :].any():
                raise GateFailed(f"on {engine} a fault in one image raises the alarm of another: leave that engine out")
    for (step, spot, site), alarm in zip(watched, seen, strict=True):
        if not alarm:
            raise GateFailed(
                f"{step}: on {engine} the check {spot.name} does not see a fault in {site.name}: the engine has"
                " folded it away, or its threshold never fires"
            )


def _loud(table: SiteTable, faults: Sequence[tuple[Site, int]]) -> PortFeed:
    idle = _ROWS - len(faults)
    numbers = np.array([*(table.ports[site.name] for site, _ in faults), *([-1] * idle)], np.int64)
    index = np.array([*(site.elements // 2 for site, _ in faults), *([0] * idle)], np.int64)
    words = np.array([*(word for _, word in faults), *([0] * idle)], np.uint32)
    return PortFeed.writing(numbers, index, words)


def _weights(
    proto: ModelProto, table: SiteTable, applied: Sequence[Applied], image: Float32s, engine: str, precision: str
) -> tuple[int, tuple[str, ...]]:
    """Weights of checked products, each made loud in place, and integer ones that are not seen; none where the engine's
    weights cannot be changed."""
    covered = {
        name
        for done in applied
        if done.name == "checksum"
        for p in done.places
        if p.kind == "product"
        for name in p.covers
    }
    sites = [
        site for site in table if site.where == "weight" and _feeds(site.name, covered) and site.format_name in _LOUD
    ]
    request = EngineRequest.of_bytes(
        proto.SerializeToString(), table.deployment_id, precision=precision, mutable_weights=True, max_batch=1
    )
    if not sites:
        return 0, ()
    name = proto.graph.input[0].name
    changed = 0
    unseen: tuple[str, ...] = ()
    with open_engine(engine, request) as runner:
        if not isinstance(runner, WeightInjector):
            return 0, ()
        for site in sites:
            seen = False
            for word in _LOUD[site.format_name]:
                with faulty_weight(runner, site.tensor, site.stored_index(site.elements // 2), Masks(0, word, 0)):
                    seen |= bool(runner.run({name: image})[DETECTED][0])
            if not seen and site.format_name not in _INTEGERS:
                raise GateFailed(f"checksum: on {engine} no check sees a fault in {site.name}")
            changed += seen
            unseen += () if seen else (site.name,)
    return changed, unseen


def _feeds(weight: str, covered: set[str]) -> bool:
    """Whether a weight's product is among the covered sites: block.0.mlp.fc1.weight, block.0.attn.qkv.weight."""
    if weight.startswith(PREFIX) or not weight.endswith(".weight"):
        return False
    module = weight.removesuffix(".weight")
    parts = [f"{module.removesuffix('qkv')}{part}" for part in "qkv"] if module.endswith(".qkv") else [module]
    return any(part in covered for part in parts)
