"""The config.json beside weights, of timm or Hugging Face: what it says of the model that the weights do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.parsing import json_value
from testbed.models.importers.facts.ledger import INSTEAD
from testbed.models.importers.facts.stated import StatedFacts, stated
from testbed.models.importers.facts.timm_models import timm_facts

CONFIG = "config.json"
Library = Literal["timm", "huggingface"]

_TOWER = {"num_attention_heads": 12, "hidden_size": 768, "num_hidden_layers": 12, "image_size": 224, "num_channels": 3}

# Hugging Face's models that are ours under another name, and what their configurations say by default.
_VIT = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12, "qkv_bias": True}
_HUGGINGFACE: dict[str, dict[str, Any]] = {
    "vit": _VIT,
    "vit_msn": _VIT | {"layer_norm_eps": 1e-6},
    "ijepa": _VIT,
    "deit": _VIT,
    "dinov2": _VIT | {"layer_norm_eps": 1e-6},
    "dinov2_with_registers": _VIT | {"layer_norm_eps": 1e-6},
    "clip": _TOWER | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "patch_size": 32},
    "siglip": _TOWER | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "patch_size": 16},
}
_POOLINGS = {
    "ijepa": "mean",
    "dinov2": "cls_and_mean",
    "dinov2_with_registers": "cls_and_mean",
    "clip": "mean_patches",
    "siglip": "mean",
}
_OTHERS = {
    "beit": "BEiT, with relative positions",
    "data2vec-vision": "Data2Vec, with relative positions",
    "dinov3_vit": "DINOv3, with rotary positions",
    "swin": "Swin, with attention in windows",
    "swinv2": "Swin, with attention in windows",
    "maxvit": "MaxViT, with convolutions and attention in windows",
    "levit": "LeViT, with convolutions",
    "mobilevit": "MobileViT, with convolutions",
    "mobilevitv2": "MobileViT, with convolutions",
    "pvt": "PVT, whose stages shrink the image",
    "pvt_v2": "PVT, whose stages shrink the image",
    "hiera": "Hiera, whose stages shrink the image",
    "cvt": "CvT, with convolutions",
    "siglip2": "SigLIP 2, for images of any shape",
}
_KEYS = {  # Hugging Face's -> ours
    "hidden_act": "activation",
    "layer_norm_eps": "eps",
    "num_attention_heads": "heads",
    "image_size": "image",
    "patch_size": "patch",
    "num_channels": "channels",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "qkv_bias": "qkv_bias",
}
_ALSO_BUILDS = (
    *("model_type", "intermediate_size", "id2label", "label2id", "pooler_act", "pooler_output_size", "architectures"),
    *("mlp_ratio", "use_swiglu_ffn", "num_register_tokens", "use_mask_token", "vision_config"),
)


@dataclass(frozen=True)
class Described:
    """``values`` has the keys of ``--set``; ``arguments`` builds the library's own model: an architecture's name and
    its arguments (timm), or the configuration (Hugging Face). ``lacks``: what the user must state, empty if nothing,
    because only the library knows it and is not installed."""

    path: Path
    library: Library
    model: str
    values: StatedFacts
    arguments: Mapping[str, Any]
    lacks: tuple[str, ...] = ()


def described(folder: Path) -> Described | None:
    """What the folder's config.json says; None where there is none, or it is of neither library.

    Raises TestbedError for one that is damaged, UsageError that names a feature which no model of ours has.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        values = json_value(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TestbedError(f"{path}, beside the weights, is damaged ({error}); repair or remove it") from error
    if not isinstance(values, dict):
        raise TestbedError(f"{path}, beside the weights, is damaged (no table); repair or remove it")
    try:
        if isinstance(values.get("architecture"), str):
            return _timm(path, values)
        return _huggingface(path, values) if isinstance(values.get("model_type"), str) else None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise TestbedError(f"{path}, beside the weights, is damaged ({error!r}); repair or remove it") from error


def _huggingface(path: Path, values: Mapping[str, Any]) -> Described:
    kind = values["model_type"]
    if kind not in _HUGGINGFACE:
        raise UsageError(f"model_type {kind!r} ({_OTHERS.get(kind, 'no plain ViT')}) is not supported; {INSTEAD}")
    usual, said = _HUGGINGFACE[kind], values.get("vision_config", {}) if kind in ("clip", "siglip") else values
    ours = {key: said.get(theirs, usual.get(theirs)) for theirs, key in _KEYS.items()}
    if values.get("use_swiglu_ffn"):  # whatever hidden_act says
        ours["activation"] = "silu"
    if "num_register_tokens" in values:
        ours["registers"] = values["num_register_tokens"]
    if labels := values.get("id2label"):
        ours["classes"] = len(labels)
    ours |= {"pooling": _POOLINGS.get(kind, "cls"), "norm_order": "pre"}
    arguments = {key: value for key, value in values.items() if key in _KEYS or key in _ALSO_BUILDS}
    return Described(path, "huggingface", kind, stated(ours), arguments)


def _timm(path: Path, values: Mapping[str, Any]) -> Described:
    architecture = values["architecture"].removeprefix("hf_hub:").split(".")[0]
    arguments = dict(values.get("model_args") or {})
    for key in ("num_classes", "global_pool"):
        if values.get(key) is not None:
            arguments.setdefault(key, values[key])
    pretrained = values.get("pretrained_cfg") or {}
    size = pretrained.get("input_size")
    ours: dict[str, Any] = {"classes": values.get("num_classes")}
    if size:
        ours |= {"channels": size[0], "image": list(size[1:])}
        arguments.setdefault("in_chans", size[0])
    if arguments.get("img_size"):
        ours["image"] = arguments["img_size"]
    facts = timm_facts(architecture, arguments)
    return Described(path, "timm", architecture, stated({**ours, **facts.values}), arguments, facts.lacks)


def preprocessing_described(folder: Path) -> Path | None:
    """The library's file that says how images are prepared (``testbed.data.preprocess.stated`` reads it), if any."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            return folder / name
    path = folder / CONFIG
    says = path.is_file() and '"pretrained_cfg"' in path.read_text(encoding="utf-8", errors="replace")
    return path if says else None
