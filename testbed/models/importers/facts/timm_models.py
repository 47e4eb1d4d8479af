"""What timm alone knows of its architectures: activation, heads, order of norms, epsilon, pooling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import nn

from testbed.core.errors import UsageError
from testbed.models.importers.facts.ledger import INSTEAD
from testbed.models.importers.facts.stated import ACTIVATIONS
from testbed.models.importers.layout import PUBLISHED_HEADS
from testbed.models.vit import ACTIVATIONS as FUNCTIONS

# timm's plain ViTs, which need no look at timm itself: exact GELU, pre-norm, epsilon 1e-6, the published heads.
_PLAIN = re.compile(r"(vit|deit)_(tiny|small|base|large|huge)_patch\d+_\d+")
_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}
_PLAIN_ARGUMENTS = {"num_classes", "in_chans", "img_size", "global_pool", "act_layer", "num_heads", "fc_norm"}
_NORM_ORDERS = {"Block": "pre", "ResPostBlock": "residual_post"}
_POOLINGS = {"token": "cls", "avg": "mean_patches"}
_CLASSES = ("VisionTransformer", "VisionTransformerDistilled")
_NOT_OURS = ("pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "scriptable")
_NEEDED = ("activation", "heads", "norm_order", "eps")


class TimmFacts(NamedTuple):
    """``values`` by key of ``--set``. ``lacks``: keys that remain unknown because timm is not installed."""

    values: Mapping[str, str | float]
    lacks: tuple[str, ...] = ()


def timm_facts(architecture: str, arguments: Mapping[str, Any]) -> TimmFacts:
    """What timm knows of an architecture that is built with these arguments.

    Raises UsageError, naming it, for what no model of ours has.
    """
    module = importable("timm")
    if module is not None:
        return TimmFacts(_inspected(architecture, built(architecture, arguments, "meta")))
    plain = _PLAIN.fullmatch(architecture)
    if plain is None or set(arguments) - _PLAIN_ARGUMENTS:
        return TimmFacts({}, _NEEDED)
    values = {
        "activation": arguments.get("act_layer") or "gelu",
        "heads": arguments.get("num_heads") or PUBLISHED_HEADS[_WIDTHS[plain[2]]],
        "norm_order": "pre",
        "eps": 1e-6,
        "pooling": _pooling(arguments.get("global_pool") or "token"),
    }
    return TimmFacts(values)


def importable(name: str) -> Any:
    """The module, or None where it is not installed or cannot be imported here."""
    try:
        return import_module(name)
    except (ImportError, RuntimeError, OSError):  # RuntimeError: torchvision of another build than torch
        return None


def built(architecture: str, arguments: Mapping[str, Any], device: str) -> nn.Module:
    """The library's own model with random weights; on "meta" without any. No argument makes it read or fetch a file.

    Raises UsageError where timm has none such.
    """
    timm: Any = import_module("timm")
    refused = [key for key in arguments if key in _NOT_OURS]
    if refused or not re.fullmatch(r"\w+", architecture):  # such as "hf-hub:...", which is fetched
        raise UsageError(
            f"{refused[0] if refused else f'architecture {architecture!r}'} is not taken from a config.json"
        )
    try:
        with torch.device(device):
            return timm.create_model(architecture, pretrained=False, **arguments)
    except Exception as error:  # whatever a constructor raises for arguments that it cannot take
        line = " ".join(str(error).split())[:200]
        raise UsageError(
            f"timm {timm.__version__} cannot build architecture {architecture!r} ({line}); remove the config.json and"
            " state what it says with --set KEY=VALUE"
        ) from error


def _inspected(architecture: str, model: Any) -> dict[str, str | float]:
    if type(model).__name__ not in _CLASSES or not hasattr(model, "blocks"):
        raise UsageError(f"architecture {architecture!r} is timm's {type(model).__name__}: not supported; {INSTEAD}")
    orders = {_NORM_ORDERS.get(type(block).__name__, type(block).__name__) for block in model.blocks}
    if strange := [order for order in orders if order not in _NORM_ORDERS.values()]:
        raise UsageError(f"architecture {architecture!r} has blocks of the kind {strange[0]}: not supported; {INSTEAD}")
    for block in model.blocks:
        for part, known in ((block.attn, ("Attention",)), (block.mlp, ("Mlp", "SwiGLU", "GluMlp"))):
            if type(part).__name__ not in known:
                raise UsageError(f"architecture {architecture!r} has {type(part).__name__}: not supported; {INSTEAD}")
        if getattr(block.mlp, "gate_last", False):
            raise UsageError(
                f"architecture {architecture!r} has MLPs whose gate is the last half: not supported; {INSTEAD}"
            )
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    epsilons, heads = {norm.eps for norm in norms}, {block.attn.num_heads for block in model.blocks}
    if any(len(distinct) != 1 for distinct in (epsilons, heads, orders)):
        raise UsageError(f"architecture {architecture!r} has unequal blocks, norms or heads: not supported; {INSTEAD}")
    pooling = _pooling(model.global_pool)
    return {
        "activation": _activation(architecture, model.blocks[0].mlp.act),
        "heads": heads.pop(),
        "norm_order": orders.pop(),
        "eps": epsilons.pop(),
        "pooling": "mean" if pooling == "mean_patches" and getattr(model, "pool_include_prefix", False) else pooling,
    }


def _activation(architecture: str, module: nn.Module) -> str:
    """Ours that gives the same values."""
    x = torch.linspace(-6, 6, 1001)
    for name, function in FUNCTIONS.items():
        if torch.allclose(module(x), function(x), rtol=0, atol=1e-6):
            return ACTIVATIONS[name]
    raise UsageError(f"architecture {architecture!r} has the activation {type(module).__name__}; {INSTEAD}")


def _pooling(name: str) -> str:
    """A name that ``stated`` checks."""
    return _POOLINGS.get(name, name)
