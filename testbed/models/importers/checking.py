"""The imported model against the library's own, built from the same file: the same logits for the same images?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, metadata
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from testbed.core.errors import GateFailed, TestbedError, UsageError
from testbed.models.config import ViTConfig
from testbed.models.importers.facts.timm_models import built
from testbed.models.importers.importing import ImportedModel
from testbed.models.importers.layout import Traits
from testbed.models.importers.layouts import VIT_PYTORCH, VIT_PYTORCH_OLD
from testbed.models.importers.packed import repacked
from testbed.models.keys import listed

IMAGES = 8
RELATIVE_BOUND = 1e-4  # of the largest logit, at least 1: what float32 sums of another order differ by, tenfold
_PACKAGES = dict.fromkeys(
    ("vit-pytorch-old", "vit-pytorch-simple"), "vit-pytorch"
)  # layout -> package, where they differ
_PACKAGES |= {name: name for name in ("vit-pytorch", "timm", "torchvision")} | {"huggingface": "transformers"}


@dataclass(frozen=True)
class LibraryCheck:
    """``max_abs_difference`` and ``max_abs_logit`` over ``images`` random images. ``same_assumptions``: what was taken
    as usual on both sides, which the comparison therefore says nothing of."""

    library: str
    version: str
    images: int
    max_abs_difference: float
    max_abs_logit: float
    bound: float
    same_assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self) | {"same_assumptions": list(self.same_assumptions)}

    def raise_if_failed(self) -> None:
        """Raises GateFailed where the logits differ by more than the bound, or are not finite."""
        if not self.max_abs_difference <= self.bound:
            raise GateFailed(
                f"--check: logits differ from {self.library} {self.version}'s own model by {self.max_abs_difference:.2g}"
                f" (largest logit {self.max_abs_logit:.3g}, bound {self.bound:.2g}); state what the weights do not tell"
                " with --set KEY=VALUE"
            )


def check_against_library(imported: ImportedModel) -> LibraryCheck:
    """Compares logits of ``IMAGES`` random images, float32 on the CPU.

    Raises TestbedError where the library is not installed (naming the package), UsageError where it has no such model.
    """
    if imported.layout not in _PACKAGES:
        raise UsageError(f"{imported.file} is testbed's own format: there is no library to check it against")
    package = _PACKAGES[imported.layout]
    try:
        import_module(package.replace("-", "_"))
        library = _BUILDERS[imported.layout](imported).eval()
    except (ImportError, OSError) as error:
        raise TestbedError(f"--check needs {package}, which cannot be imported: pip install {package}") from error
    config = imported.config
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, config.channels, config.image, config.image, generator=generator)
    with torch.no_grad():
        ours, theirs = imported.model(images), library(images)
    theirs = getattr(theirs, "logits", theirs)
    largest = theirs.abs().max().item()
    return LibraryCheck(
        library=package,
        version=metadata.version(package),
        images=IMAGES,
        max_abs_difference=(ours - theirs).abs().max().item(),
        max_abs_logit=largest,
        bound=RELATIVE_BOUND * max(1.0, largest),
        same_assumptions=tuple(row.key for row in imported.facts if row.source == "usual"),
    )


def _timm(imported: ImportedModel) -> nn.Module:
    if imported.config_json is not None:
        model = built(imported.config_json.model, imported.config_json.arguments, "cpu")
    else:
        transformers: Any = import_module("timm.models.vision_transformer")
        c = imported.config
        library = transformers.VisionTransformer
        if c.distillation != "none":
            library = import_module("timm.models.deit").VisionTransformerDistilled
        model = library(
            img_size=c.image,
            patch_size=c.patch,
            in_chans=c.channels,
            num_classes=c.classes,
            embed_dim=c.width,
            depth=c.depth,
            num_heads=_same(c.heads, "heads"),
            mlp_ratio=(_same(c.mlp, "mlp") + 0.5) / c.width,  # timm rounds down
            qkv_bias=c.qkv_bias,
            class_token=c.cls_token,
            global_pool="token" if c.pooling == "cls" else "avg",
            pool_include_prefix=c.pooling == "mean",
            fc_norm=c.final_norm == "pooled",
            norm_layer=partial(nn.LayerNorm, eps=c.norm_eps),
            act_layer=c.activation,
            block_fn=transformers.ResPostBlock if c.norm_order == "residual_post" else transformers.Block,
            mlp_layer=_timm_mlp(imported),
            reg_tokens=c.registers,
            no_embed_class=c.position_on == "patches",
            pre_norm=c.embed_norm,
            embed_norm_layer=partial(nn.LayerNorm, eps=c.norm_eps) if c.patch_norm else None,
            init_values=1.0 if c.layer_scale else None,
            qk_norm=c.qk_norm,
        )
    return _filled(model, imported.tensors)


def _timm_mlp(imported: ImportedModel) -> Any:
    layers: Any = import_module("timm.layers")
    if not imported.config.gated_mlp:
        return layers.Mlp
    return layers.SwiGLU


def _torchvision(imported: ImportedModel) -> nn.Module:
    models: Any = import_module("torchvision.models")
    c = imported.config
    model = models.VisionTransformer(
        image_size=c.image,
        patch_size=c.patch,
        num_layers=c.depth,
        num_heads=_same(c.heads, "heads"),
        hidden_dim=c.width,
        mlp_dim=_same(c.mlp, "mlp"),
        num_classes=c.classes,
        norm_layer=partial(nn.LayerNorm, eps=c.norm_eps),
    )
    if c.channels != 3:
        model.conv_proj = nn.Conv2d(c.channels, c.width, c.patch, c.patch)
    return _filled(model, imported.tensors)


def _huggingface(imported: ImportedModel) -> nn.Module:
    transformers: Any = import_module("transformers")
    c = imported.config
    if imported.config_json is not None:
        config = transformers.AutoConfig.for_model(**imported.config_json.arguments)
        if imported.config_json.model in ("clip", "siglip"):  # their own configurations do not keep it
            config.num_labels = c.classes
    elif imported.model_type != "vit":
        raise UsageError(
            f"--check needs the config.json beside the weights, to build transformers' {imported.model_type}"
        )
    else:
        config = transformers.ViTConfig(
            hidden_size=c.width,
            num_hidden_layers=c.depth,
            num_attention_heads=_same(c.heads, "heads"),
            intermediate_size=_same(c.mlp, "mlp"),
            hidden_act={"gelu_tanh": "gelu_pytorch_tanh"}.get(c.activation, c.activation),
            layer_norm_eps=c.norm_eps,
            image_size=c.image,
            patch_size=c.patch,
            num_channels=c.channels,
            qkv_bias=c.qkv_bias,
            num_labels=c.classes,
        )
    library = transformers.AutoModelForImageClassification.from_config(config).__class__
    model, info = library.from_pretrained(
        None, config=config, state_dict=dict(imported.tensors), output_loading_info=True
    )
    missing = [name for name in info["missing_keys"] if not name.startswith(imported.unused)]
    if wrong := [*missing, *info["unexpected_keys"]]:
        raise UsageError(f"--check: transformers does not take these weights: {listed(sorted(wrong))}")
    return model


def _vit_pytorch(imported: ImportedModel) -> nn.Module:
    library: Any = import_module("vit_pytorch")
    c = imported.config
    model = library.ViT(**_vit_pytorch_sizes(c), pool="cls" if c.cls_token else "mean")
    model.pool = "cls" if c.pooling == "cls" else "mean"
    if not c.patch_norm:
        model.to_patch_embedding[1] = model.to_patch_embedding[3] = nn.Identity()
    if c.final_norm == "pooled":  # the older model normalised the pooled vector, not the tokens
        model.to_latent, model.transformer.norm = model.transformer.norm, nn.Identity()
    _set_eps(model, c.norm_eps)
    tensors = imported.tensors
    if imported.layout == VIT_PYTORCH_OLD.name:
        tensors = _renamed_as_today(imported)
    return _filled(model, tensors)


def _simple_vit(imported: ImportedModel) -> nn.Module:
    library: Any = import_module("vit_pytorch")
    c = imported.config
    if c.registers:
        module: Any = import_module("vit_pytorch.simple_vit_with_register_tokens")
        model = module.SimpleViT(**_vit_pytorch_sizes(c), num_register_tokens=c.registers)
    else:
        model = library.SimpleViT(**_vit_pytorch_sizes(c))
    _set_eps(model, c.norm_eps)
    return _filled(model, imported.tensors)


def _vit_pytorch_sizes(c: ViTConfig) -> dict[str, int]:
    """The arguments that vit-pytorch's models have in common."""
    return {
        "image_size": c.image,
        "patch_size": c.patch,
        "num_classes": c.classes,
        "dim": c.width,
        "depth": c.depth,
        "heads": _same(c.heads, "heads"),
        "mlp_dim": _same(c.mlp, "mlp"),
        "channels": c.channels,
        "dim_head": c.head_width,
    }


def _set_eps(model: nn.Module, eps: float) -> None:
    """Sets the epsilon: vit-pytorch has no argument for the epsilon of its LayerNorms."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps


def _renamed_as_today(imported: ImportedModel) -> dict[str, Tensor]:
    """The older library's tensors under the names that the current one, changed as above, gives them."""
    c = imported.config
    traits = Traits(c.depth, c.cls_token, c.patch_norm, c.qkv_bias, c.final_norm)
    old, new = VIT_PYTORCH_OLD.names(traits), VIT_PYTORCH.names(traits)
    patches = {f"patch_embed.proj.{kind}": f"to_patch_embedding.2.{kind}" for kind in ("weight", "bias")}
    final = {f"head.{kind}": f"mlp_head.{kind}" for kind in ("weight", "bias")}
    if c.final_norm == "pooled":
        final |= {f"norm.{kind}": f"to_latent.{kind}" for kind in ("weight", "bias")}
    renamed = {**{ours: theirs[0] for ours, theirs in new.items()}, **patches, **final}
    return {renamed[ours]: imported.tensors[theirs[0]] for ours, theirs in old.items()}


_BUILDERS: Mapping[str, Callable[[ImportedModel], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
    "vit-pytorch": _vit_pytorch,
    "vit-pytorch-old": _vit_pytorch,
    "vit-pytorch-simple": _simple_vit,
}


def _filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """``model`` with these weights, each of which it must have; tables may lack or have a leading 1."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = repacked(tensors, shapes)
    fitted = {
        name: tensor.reshape(shapes[name]) if name in shapes and tensor.numel() == shapes[name].numel() else tensor
        for name, tensor in tensors.items()
    }
    empty = {name: torch.zeros(shape) for name, shape in shapes.items() if not shape.numel()}
    try:
        model.load_state_dict(empty | fitted)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:300]
        raise UsageError(f"--check: the library's own model does not take these weights: {line}") from error
    return model


def _same(counts: tuple[int, ...], what: str) -> int:
    if len(set(counts)) != 1:
        raise UsageError(f"--check: blocks of unequal {what}, which the library's own model does not have")
    return counts[0]
