"""What a Vision Transformer of this testbed is made of, as one frozen, validated record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from testbed.core.errors import UsageError

NormOrder = Literal["pre", "post"]
Pooling = Literal["cls", "mean", "mean_patches"]
Patchify = Literal["linear", "conv"]
Position = Literal["none", "1d", "2d", "sinusoidal"]
AttentionKind = Literal["softmax", "differential"]
FinalNorm = Literal["none", "tokens", "pooled"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "norm_order": get_args(NormOrder),
    "pooling": get_args(Pooling),
    "patchify": get_args(Patchify),
    "position": get_args(Position),
    "attention": get_args(AttentionKind),
    "final_norm": get_args(FinalNorm),
}


@dataclass(frozen=True)
class ViTConfig:
    """Architecture of a ViT. ``heads`` and ``mlp`` name one number per block, so blocks may be unequal (pruning).

    A block with 0 heads has no attention, one with ``mlp`` 0 has no MLP; both are legal.
    ``pooling`` "mean" averages every token, CLS included (vit-pytorch); "mean_patches" leaves CLS out (timm).
    ``final_norm`` says where the last LayerNorm sits: on the tokens, or on the pooled vector.
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
    init: Literal["normal", "zero", "trunc"] = "normal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple(self.heads))
        object.__setattr__(self, "mlp", tuple(self.mlp))
        for name in ("image", "patch", "channels", "width", "classes", "head_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"model: {name} must be at least 1, not {getattr(self, name)}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"model: {name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.image % self.patch:
            raise UsageError(f"model: image size {self.image} is not a multiple of patch size {self.patch}")
        if len(self.heads) != len(self.mlp):
            raise UsageError(f"model: {len(self.heads)} blocks name heads but {len(self.mlp)} name mlp")
        if min((*self.heads, *self.mlp, 0)) < 0:
            raise UsageError("model: heads and mlp must not be negative")
        if self.pooling == "cls" and not self.cls_token:
            raise UsageError("model: pooling 'cls' needs cls_token = true")
        if self.attention == "differential" and self.head_width % 2:
            raise UsageError(f"model: differential attention halves head_width, which is odd: {self.head_width}")
        if self.position in ("2d", "sinusoidal") and self.width % 2:
            raise UsageError(f"model: position {self.position!r} needs an even width, not {self.width}")
        for name in ("dropout", "embed_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"model: {name} must lie in [0, 1), not {getattr(self, name)}")

    @property
    def depth(self) -> int:
        return len(self.heads)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        """Tokens in the residual stream, CLS included."""
        return self.grid**2 + int(self.cls_token)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ViTConfig:
        """Raises UsageError for an unknown or missing key."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(f"model: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"model: {str(error).replace('ViTConfig.__init__() ', '')}") from error

    def with_(self, **changes: Any) -> ViTConfig:
        return replace(self, **changes)


def uniform(depth: int, heads: int, mlp: int, **rest: Any) -> ViTConfig:
    """A config whose blocks are all alike."""
    return ViTConfig(heads=(heads,) * depth, mlp=(mlp,) * depth, **rest)
