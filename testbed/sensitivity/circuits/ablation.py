"""A ViT without some of its parts: what a removed head or neuron is replaced by, and the outputs that remain.

Heads are ablated at the context (before the projection), neurons after the activation. ``zero`` is what pruning does;
``mean`` puts the analysis set's mean there, token by token; ``resample`` the value that the corrupt input has there, another
class's image unless another corruption is named. Under ``zero`` a branch of which nothing is left adds nothing at all, its
output bias included (see `KeptComponents`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.models.config import ViTConfig
from testbed.models.vit import Block, Tap, ViT, taps
from testbed.sensitivity.circuits.analysis_set import AnalysisSet, Corruption
from testbed.sensitivity.circuits.components import KeptComponents

Ablation = Literal["zero", "mean", "resample"]
ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "resample")


@dataclass(frozen=True)
class Replacements:
    """Per site ("block.3.attn.context"): (n, N, C), or (1, N, C) for all images, or None for zeros."""

    ablation: Ablation
    values: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        model: ViT,
        images: AnalysisSet,
        ablation: Ablation,
        seed: int = 0,
        *,
        corrupt: Corruption = "other_class",
        snr_db: float = 0.0,
    ) -> Replacements:
        """What the images' values are replaced by. corrupt, snr_db: the corrupt inputs of ``resample``.

        Raises UsageError for an unknown ablation, and as `AnalysisSet.corrupted` does under ``resample``.
        """
        if ablation not in ABLATIONS:
            raise UsageError(unknown("ablation", ablation, ABLATIONS))
        if ablation == "zero":
            return cls(ablation, {})
        if ablation == "resample" and corrupt != "other_class":
            corrupted = replace(images, images=images.corrupted(corrupt, seed, snr_db))
            return cls(ablation, _recorded(model, corrupted))
        if ablation == "resample":
            return cls(ablation, _recorded(model, images, images.partners(seed)))
        return cls(
            ablation,
            {site: v.double().mean(0, keepdim=True).to(v.dtype) for site, v in _recorded(model, images).items()},
        )

    def at(self, site: str, rows: slice, like: Tensor) -> Tensor:
        if site not in self.values:
            return torch.zeros_like(like)
        values = self.values[site]
        return values.expand_as(like) if len(values) == 1 else values[rows]


def logits_of(
    model: ViT, images: AnalysisSet, kept: KeptComponents | None = None, replaced: Replacements | None = None
) -> Tensor:
    """(n, K) of the model, or of what is kept of it."""
    parts = []
    with torch.inference_mode():
        for rows in images.batches():
            if kept is None or replaced is None:
                parts.append(model(images.images[rows]))
                continue
            with ablated(model, kept, replaced, rows):
                parts.append(model(images.images[rows]))
    return torch.cat(parts)


@contextmanager
def ablated(model: ViT, kept: KeptComponents, replaced: Replacements, rows: slice) -> Iterator[None]:
    """Ablates for the length of the block: what is not kept is replaced, for these rows of the analysis set."""
    handles = []
    for number, block in enumerate(model.block):
        assert isinstance(block, Block)
        if block.has_attention and len(kept.heads[number]) < block.attn.heads:
            width = block.attn.head_width
            columns = [c for head in kept.heads[number] for c in range(head * width, (head + 1) * width)]
            handles.append(_replace(block.attn.context, columns, replaced, rows))
            handles += _gone(block.attn.out, columns, replaced)
        if block.has_mlp and len(kept.neurons[number]) < block.mlp.fc1.out_features:
            neurons = list(kept.neurons[number])
            handles.append(_replace(block.mlp.neurons, neurons, replaced, rows))
            handles += _gone(block.mlp.out, neurons, replaced)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def written(config: ViTConfig) -> tuple[str, str]:
    """How the sites end that a branch's last map reads: of heads, of neurons."""
    return ".attn.context", ".mlp.gated" if config.gated_mlp else ".mlp.gelu"


def _replace(tap: Tap, kept: list[int], replaced: Replacements, rows: slice) -> torch.utils.hooks.RemovableHandle:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        mask = torch.zeros(output.shape[-1], dtype=torch.bool)
        mask[kept] = True
        return torch.where(mask, output, replaced.at(tap.site, rows, output))

    return tap.register_forward_hook(hook)


def _gone(out: Tap, kept: list[int], replaced: Replacements) -> list[torch.utils.hooks.RemovableHandle]:
    """A branch of which nothing is left loses its output bias too, as its pruned model does."""
    if kept or replaced.ablation != "zero":
        return []
    return [out.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))]


def _recorded(model: ViT, images: AnalysisSet, order: Tensor | None = None) -> dict[str, Tensor]:
    """Contexts and activations (n, N, C) of the images, or of the images in ``order``."""
    sites = [tap for site, tap in taps(model).items() if site.endswith(written(model.config))]
    seen: dict[str, list[Tensor]] = {tap.site: [] for tap in sites}

    def note(tap: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(tap, Tap)
        seen[tap.site].append(output.clone())

    handles = [tap.register_forward_hook(note) for tap in sites]
    try:
        with torch.inference_mode():
            for rows in images.batches():
                model(images.images[rows])
    finally:
        for handle in handles:
            handle.remove()
    joined = {site: torch.cat(parts) for site, parts in seen.items()}
    return joined if order is None else {site: values[order] for site, values in joined.items()}
