"""A checkpoint of another library -> a model of ours that computes the same logits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from testbed.core.errors import TestbedError, UsageError
from testbed.models.config import Pooling, ViTConfig
from testbed.models.importers.checkpoint import read_checkpoint
from testbed.models.importers.inference import Asked, inferred_config
from testbed.models.importers.layout import Names
from testbed.models.importers.layouts import names_in, recognised
from testbed.models.keys import listed, misfits
from testbed.models.vit import ViT
from testbed.models.weights import describes_model, load_model

_UNSUPPORTED = {
    r"(q_norm|k_norm|norm_q|norm_k)\.": "normalised queries and keys (qk_norm)",
    r"(\bls[12]\.|gamma_?[12]?$|layer_scale|lambda1$)": "layer scale",
    r"(dist_token|distillation|head_dist|cls_classifier)": "a distillation token",
    r"(reg_token|register_token)": "register tokens",
    r"(rel_pos|relative_position|rope)": "relative positions",
    r"(attn_pool\.|probe$)": "attention pooling",
    r"(norm_pre|ln_pre)\.": "a LayerNorm before the blocks",
    r"(pre_logits|pooler)\.": "a layer before the head",
    r"(attn|mlp)\.norm\.": "LayerNorms inside attention or MLP",
    r"(w12|fc1_g|fc1_x|w_gate)\.": "gated MLPs",
}


@dataclass(frozen=True)
class ImportedModel:
    """``model`` is in eval mode. ``assumed`` says, a line each, what the file does not tell and was taken as usual."""

    model: ViT
    config: ViTConfig
    layout: str
    assumed: tuple[str, ...]


def import_weights(
    path: Path,
    layout: str | None = None,
    *,
    heads: int | None = None,
    image: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    pooling: Pooling | None = None,
    norm_eps: float | None = None,
) -> ImportedModel:
    """The model of a .pth or .safetensors file in the layout of vit-pytorch (old, current), timm, torchvision or
    Hugging Face, or of a file that ``save_model`` wrote.

    The layout is recognised from the names of the keys unless given, the architecture from the shapes. What shapes
    cannot tell has the library's default: ``heads`` (see ``Layout.usual_heads``), ``norm_eps``, ``pooling`` ("cls"
    where there is a CLS token). A Hugging Face config.json beside the file is read. ``image`` (pixels a side),
    ``channels`` and ``classes`` are checks: a file for others is refused.

    Raises UsageError for what must be stated or is wrongly stated; TestbedError for an unreadable file (nothing in it
    is executed), for missing, extra or misshapen keys (listed) and for features that ``ViT`` does not have.
    """
    asked = Asked(heads, image, channels, classes, pooling, norm_eps)
    if describes_model(path):
        return _own(path, asked, layout)
    tensors = read_checkpoint(path)
    known = recognised(tensors, layout, str(path))
    traits, names = names_in(known, tensors)
    _refuse_what_is_not_a_plain_classifier(path, names, tensors)
    if problem := misfits({theirs: () for group in names.values() for theirs in group}, dict.fromkeys(tensors, ())):
        raise TestbedError(f"{path} is not a complete {known.name} model: {problem}")
    if known.name == "huggingface":
        asked = _with_huggingface_config(path.parent / "config.json", asked, tensors[names["head.weight"][0]])
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        config, assumed = inferred_config(known, traits, names, shapes, asked)
    except (UsageError, TestbedError) as error:
        raise type(error)(f"{path}: {error}") from error
    model = _empty(config)
    if problem := misfits(_expected(model, names), {n: _with_batch(n, s, names) for n, s in shapes.items()}):
        raise TestbedError(f"{path} does not fit together as {known.name} of width {config.width}: {problem}")
    model.load_state_dict({ours: _joined(ours, theirs, tensors) for ours, theirs in names.items()}, assign=True)
    return ImportedModel(model.eval(), config, known.name, tuple(assumed))


def _refuse_what_is_not_a_plain_classifier(path: Path, names: Names, tensors: Mapping[str, Tensor]) -> None:
    head = [*names["head.weight"], *names["head.bias"]]
    if not tensors.keys() & set(head):
        raise TestbedError(f"{path} has no classification head ({listed(head)}); import a trained classifier")
    spoken_for = {theirs for group in names.values() for theirs in group}
    extra = [name for name in tensors if name not in spoken_for]
    for pattern, feature in _UNSUPPORTED.items():
        if keys := [name for name in extra if re.search(pattern, name)]:
            raise TestbedError(f"{path} uses {feature}, which is not supported; its keys: {listed(keys)}")


def _own(path: Path, asked: Asked, layout: str | None) -> ImportedModel:
    if any(stated is not None for stated in (layout, asked.heads, asked.pooling, asked.norm_eps)):
        raise UsageError(
            f"{path} says its own architecture; leave out the layout, heads, pooling and LayerNorm epsilon"
        )
    model = load_model(path)
    for name in ("image", "channels", "classes"):
        want, have = getattr(asked, name), getattr(model.config, name)
        if want not in (None, have):
            raise UsageError(f"{path}: the model has {name} = {have}, not {want}: made for another data set?")
    return ImportedModel(model, model.config, "testbed", ())


def _with_huggingface_config(path: Path, asked: Asked, head: Tensor) -> Asked:
    """Fills in heads and LayerNorm epsilon from the config.json that the library writes beside its weights."""
    if not path.is_file():
        return asked
    try:
        values = json.loads(path.read_text())
        width, activation = values.get("hidden_size", 768), values.get("hidden_act", "gelu")
        heads, norm_eps = values.get("num_attention_heads", 12), values.get("layer_norm_eps", 1e-12)
    except (OSError, ValueError, AttributeError) as error:
        raise TestbedError(f"{path}, beside the weights, is damaged ({error}); repair or remove it") from error
    if width != head.shape[-1]:
        raise TestbedError(f"{path} describes width {width}, the weights beside it have {head.shape[-1]}; remove it")
    if activation != "gelu":
        raise TestbedError(f"{path}: activation {activation!r} is not supported; only gelu is")
    return replace(
        asked,
        heads=heads if asked.heads is None else asked.heads,
        norm_eps=norm_eps if asked.norm_eps is None else asked.norm_eps,
    )


def _empty(config: ViTConfig) -> ViT:
    with torch.device("meta"):
        return ViT(config)


def _expected(model: ViT, names: Names) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor of the file must have."""
    expected = {}
    for ours, parameter in model.named_parameters():
        rows, *rest = parameter.shape
        for theirs in names[ours]:
            expected[theirs] = (rows // len(names[ours]), *rest)
    return expected


def _with_batch(name: str, shape: tuple[int, ...], names: Names) -> tuple[int, ...]:
    """Newer vit-pytorch stores CLS and positions without the leading 1."""
    tables = (*names["pos_embed"], *names.get("cls_token", ()))
    return (1, *shape) if name in tables and len(shape) == 2 else shape


def _joined(ours: str, theirs: tuple[str, ...], tensors: Mapping[str, Tensor]) -> torch.nn.Parameter:
    tensor = torch.cat([tensors[name] for name in theirs]) if len(theirs) > 1 else tensors[theirs[0]]
    return torch.nn.Parameter(tensor[None] if ours in ("pos_embed", "cls_token") and tensor.dim() == 2 else tensor)
