"""What a Vision Transformer of this testbed is made of, as one frozen, validated record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from typing import Any, Literal, get_args

from pydantic import JsonValue

from testbed.core.errors import UsageError
from testbed.core.process.resources import require_memory
from testbed.core.words.nearest import unknown

NormOrder = Literal["pre", "post", "residual_post"]
Pooling = Literal["cls", "mean", "mean_patches", "cls_and_mean"]
PositionOn = Literal["tokens", "patches"]
Distillation = Literal["none", "token", "head"]
Patchify = Literal["linear", "conv"]
Position = Literal["none", "1d", "2d", "sinusoidal", "sincos_2d"]
AttentionKind = Literal["softmax", "differential"]
FinalNorm = Literal["none", "tokens", "pooled"]
Init = Literal["normal", "zero", "trunc"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
ACTIVATION_NAMES: tuple[Activation, ...] = get_args(Activation)

_CHOICES: dict[str, tuple[str, ...]] = {
    "norm_order": get_args(NormOrder),
    "pooling": get_args(Pooling),
    "patchify": get_args(Patchify),
    "position": get_args(Position),
    "attention": get_args(AttentionKind),
    "final_norm": get_args(FinalNorm),
    "init": get_args(Init),
    "activation": ACTIVATION_NAMES,
    "position_on": get_args(PositionOn),
    "distillation": get_args(Distillation),
}
# Left out of to_json() at their defaults, so that files written before they were added keep their hash.
_ADDED = (
    *("activation", "proj_bias", "registers", "distillation", "position_on", "patch_bias", "embed_norm"),
    *("layer_scale", "qk_norm", "gated_mlp"),
)
_COUNTS = ("image", "patch", "channels", "width", "classes", "head_width")
# Beyond any ViT that was published, by a factor of ten (ViT-22B: width 6144, 48 blocks, 48 heads, MLPs of 24,576).
_MOST = {
    "image": 8192,
    "patch": 8192,
    "channels": 4096,
    "width": 1 << 16,
    "classes": 1_000_000,
    "head_width": 1 << 16,
    "heads": 1024,
    "mlp": 1 << 18,
    "registers": 1024,
}
MOST_BLOCKS = 512
_FLAGS = (
    *("cls_token", "patch_norm", "qkv_bias", "proj_bias"),
    *("patch_bias", "embed_norm", "layer_scale", "qk_norm", "gated_mlp"),
)


@dataclass(frozen=True)
class ViTConfig:
    """Architecture of a ViT. ``heads`` and ``mlp`` name one number per block, so blocks may be unequal (pruning).

    A block with 0 heads has no attention, one with ``mlp`` 0 has no MLP; both are legal.
    ``norm_order``: x + f(norm(x)), norm(x + f(x)), or x + norm(f(x)); the last has no blocks without attention or MLP.
    ``pooling`` "mean" averages every token, CLS included (vit-pytorch); "mean_patches" the patches alone (timm);
    "cls_and_mean" puts CLS beside the patches' mean, so that the head reads twice the width (DINOv2).
    ``final_norm`` says where the last LayerNorm sits: on the tokens, or on the pooled vector.
    ``dropout`` acts on the attention maps and on both branches' outputs, ``embed_dropout`` after the positions.
    ``activation`` acts between an MLP's two maps: "gelu" is exact, "gelu_tanh" its tanh approximation, "quick_gelu"
    x sigmoid(1.702 x) (Hendrycks & Gimpel 2016 give all three), "silu" x sigmoid(x).
    ``qkv_bias`` and ``proj_bias``: have attention's maps before and after the heads a bias?
    ``position`` "2d" is a learned row and a learned column, "sincos_2d" a fixed table of both; neither is for CLS.
    ``position_on``: do "1d" positions have a row for every token, or for the patches alone?
    ``registers`` tokens stand between CLS and the patches (Darcet et al. 2024); ``distillation`` "token" is one more,
    before them, "head" one with a head of its own, and the logits are both heads' mean (DeiT, Touvron et al. 2021).
    ``embed_norm``: a LayerNorm on the tokens before the first block (CLIP); ``patch_bias``: has the patch projection one?
    ``layer_scale``: one learned factor per channel at both branches' ends; ``qk_norm``: LayerNorms on each head's q and k.
    ``gated_mlp``: the activation acts on a third map, ``gate``, and multiplies the first (with "silu": SwiGLU).
    ``init`` is how CLS and learned positions start: N(0, 1), zeros, or a normal of deviation 0.02 truncated at +-2.
    """

    image: int
    patch: int
    channels: int
    width: int
    heads: tuple[int, ...]
    mlp: tuple[int, ...]
    classes: int
    head_width: int = 64
    norm_order: NormOrder = "pre"
    pooling: Pooling = "cls"
    cls_token: bool = True
    patchify: Patchify = "linear"
    patch_norm: bool = False
    position: Position = "1d"
    attention: AttentionKind = "softmax"
    qkv_bias: bool = False
    final_norm: FinalNorm = "pooled"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    embed_dropout: float = 0.0
    init: Init = "normal"
    activation: Activation = "gelu"
    proj_bias: bool = True
    registers: int = 0
    distillation: Distillation = "none"
    position_on: PositionOn = "tokens"
    patch_bias: bool = True
    embed_norm: bool = False
    layer_scale: bool = False
    qk_norm: bool = False
    gated_mlp: bool = False

    def __post_init__(self) -> None:
        for name in ("heads", "mlp"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or any(not _whole(v) or v < 0 for v in values):
                raise UsageError(f"model: {name} must list one number per block, 0 or more, not {values!r}")
            if len(values) > MOST_BLOCKS or max(values, default=0) > _MOST[name]:
                raise UsageError(
                    f"model: {name} must be at most {_MOST[name]:,} in each of at most {MOST_BLOCKS} blocks: no ViT has more"
                )
            object.__setattr__(self, name, tuple(int(v) for v in values))
        for name in _COUNTS:
            if not _whole(getattr(self, name)) or getattr(self, name) < 1:
                raise UsageError(f"model: {name} must be a whole number, at least 1, not {getattr(self, name)!r}")
            if getattr(self, name) > _MOST[name]:
                raise UsageError(f"model: {name} must be at most {_MOST[name]:,}: no ViT has more")
            object.__setattr__(self, name, int(getattr(self, name)))
        if not _whole(self.registers) or self.registers < 0:
            raise UsageError("model: registers must be a whole number, 0 or more")
        if self.registers > _MOST["registers"]:
            raise UsageError(f"model: registers must be at most {_MOST['registers']:,}: no ViT has more")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"model: {name} must be true or false, not {getattr(self, name)!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"model: {name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.image % self.patch:
            raise UsageError(f"model: image size {self.image} is not a multiple of patch size {self.patch}")
        if len(self.heads) != len(self.mlp):
            raise UsageError(f"model: {len(self.heads)} blocks name heads but {len(self.mlp)} name mlp")
        if self.norm_order == "residual_post" and 0 in (*self.heads, *self.mlp):
            raise UsageError(
                "model: norm_order 'residual_post' needs attention and an MLP in every block; keep some of each"
            )
        if self.pooling in ("cls", "cls_and_mean") and not self.cls_token:
            raise UsageError(f"model: pooling {self.pooling!r} needs cls_token = true")
        self._check_parts()
        if self.attention == "differential" and self.head_width % 2:
            raise UsageError(f"model: differential attention halves head_width, which is odd: {self.head_width}")
        if self.position == "sinusoidal" and self.width % 2:
            raise UsageError(f"model: position 'sinusoidal' needs an even width, not {self.width}")
        if self.position == "sincos_2d" and (self.width % 4 or self.width < 8):
            raise UsageError(f"model: position 'sincos_2d' needs a width of 8 or more divisible by 4, not {self.width}")
        for name in ("dropout", "embed_dropout", "norm_eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise UsageError(f"model: {name} must lie in [0, 1), not {value!r}")

    def _check_parts(self) -> None:
        """Raises UsageError for parts that do not go together."""
        if self.distillation != "none" and not self.cls_token:
            raise UsageError("model: distillation needs cls_token = true")
        if self.distillation == "head" and (self.pooling != "cls" or self.final_norm == "pooled"):
            raise UsageError("model: distillation 'head' needs pooling 'cls' and final_norm 'tokens' or 'none'")
        if self.pooling == "cls_and_mean" and self.final_norm == "pooled":
            raise UsageError("model: pooling 'cls_and_mean' needs final_norm 'tokens' or 'none'")
        if self.layer_scale and self.norm_order != "pre":
            raise UsageError("model: layer_scale needs norm_order 'pre'")
        if self.qk_norm and self.attention != "softmax":
            raise UsageError("model: qk_norm needs attention 'softmax'")
        if self.position_on == "patches" and self.position != "1d":
            raise UsageError("model: position_on 'patches' needs position '1d'")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.heads)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        """Tokens in the residual stream, those before the patches included."""
        return self.grid**2 + self.prefix_tokens

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: CLS, distillation, registers."""
        return int(self.cls_token) + int(self.distillation != "none") + self.registers

    @property
    def head_inputs(self) -> int:
        """Numbers that the head reads."""
        return 2 * self.width if self.pooling == "cls_and_mean" else self.width

    @property
    def parameters(self) -> int:
        """Numbers in the matrices of its blocks, its embedding and its head; vectors and tables are not counted."""
        ends = self.channels * self.patch**2 + self.classes + (self.tokens if self.position == "1d" else 0)
        maps = 2 + self.gated_mlp
        return self.width * (
            ends + sum(4 * self.head_width * h + maps * m for h, m in zip(self.heads, self.mlp, strict=True))
        )

    def check_memory(self, batch: int) -> None:
        """Raises UsageError where its parameters, or what one block computes of ``batch`` images, cannot be held here."""
        require_memory(4 * self.parameters, f"model: a ViT of {self.parameters:,} parameters", "make it smaller")
        blocks = (
            3 * self.tokens * h * self.head_width + h * self.tokens**2 for h in self.heads
        )  # queries, keys and values, and the attention maps
        widest = max((*blocks, *(self.tokens * m for m in self.mlp)), default=0)
        each = 4 * max(widest, self.channels * self.image**2)
        require_memory(batch * each, f"a batch of {batch} for this model", "make batch or model smaller")

    def to_json(self) -> dict[str, JsonValue]:
        """JSON-ready; ``from_json`` reads it back."""
        usual = {f.name: f.default for f in fields(self) if f.name in _ADDED}
        return {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ViTConfig:
        """Raises UsageError for an unknown or missing key."""
        known = {f.name for f in fields(cls)}
        strange = sorted(set(values) - known)
        if strange:
            raise UsageError(f"model: {unknown('key', strange[0], sorted(known))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"model: {str(error).replace('ViTConfig.__init__() ', '')}") from error

    def with_(self, **changes: Any) -> ViTConfig:
        """The same with other values of these fields."""
        return replace(self, **changes)


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)  # NumPy's integers too


def uniform(depth: int, heads: int, mlp: int, **rest: Any) -> ViTConfig:
    """A config whose blocks are all alike."""
    return ViTConfig(heads=(heads,) * depth, mlp=(mlp,) * depth, **rest)
