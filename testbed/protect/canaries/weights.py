"""Canaries in the weights of checked products."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto

from testbed.core.arrays import Float32s
from testbed.core.errors import GateFailed
from testbed.core.fault import Masks
from testbed.core.protected import DETECTED, PREFIX
from testbed.core.site import SiteTable
from testbed.engines.runner import EngineRequest, WeightInjector, faulty_weight, open_engine
from testbed.protect.canaries.loud import INTEGERS, LOUD
from testbed.protect.contract import Applied


def fly_in_weights(
    proto: ModelProto, table: SiteTable, applied: Sequence[Applied], image: Float32s, engine: str, precision: str
) -> tuple[int, tuple[str, ...]]:
    """Make a weight of each checked product loud, in place. Gives back how many were seen, and integer ones that are not;
    none where the engine's weights cannot be changed.

    image: (1, C, S, S). Raises GateFailed naming a weight of another format in which no check sees a fault.
    """
    covered = {
        name
        for done in applied
        if done.name == "checksum"
        for p in done.places
        if p.kind == "product"
        for name in p.covers
    }
    sites = [
        site for site in table if site.where == "weight" and _feeds(site.name, covered) and site.format_name in LOUD
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
            for word in LOUD[site.format_name]:
                with faulty_weight(runner, site.tensor, site.stored_index(site.elements // 2), Masks(0, word, 0)):
                    seen |= bool(runner.run({name: image})[DETECTED][0])
            if not seen and site.format_name not in INTEGERS:
                raise GateFailed(f"checksum: on {engine} no check sees a fault in {site.name}")
            changed += seen
            unseen += () if seen else (site.name,)
    return changed, unseen


def _feeds(weight: str, covered: set[str]) -> bool:
    """Whether a weight's product is among the covered sites: block.0.mlp.fc1.weight, block.0.attn.qkv.weight."""
    if weight.startswith(PREFIX) or not weight.endswith(".weight"):
        return False
    module = weight.removesuffix(".weight")
    if module == "patch_embed.proj":
        return not covered.isdisjoint(("patch_embed", "embed"))
    parts = [f"{module.removesuffix('qkv')}{part}" for part in "qkv"] if module.endswith(".qkv") else [module]
    return any(part in covered for part in parts)
