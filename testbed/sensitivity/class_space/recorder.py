"""Hidden states of a model, block by block, without holding those of all blocks.

    with recorded(model) as recorder, torch.inference_mode():
        for states in recorder.blocks(recorder.embed(images)):
            ...                                   # states: BlockStates of this block only
        logits = recorder.classify(states.residual_out)

These are the operations of ``model(images)`` in their order, so the logits are the same bits. ``edits`` replace
tensors on the way, by the name of their site (``testbed.models.vit.taps``): an attention map, or a value that a fault
changed; everything behind an edit is computed from it, and what is recorded is what the edit left.

Shapes: B images, N tokens (CLS included), D width, H heads, d head width, M the MLP's width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.models.vit import Block, Tap, ViT, taps

Edit = Callable[[Tensor], Tensor]
"""Gives what a tensor is replaced by, of the same shape."""


@dataclass(frozen=True)
class BlockStates:
    """What block ``index`` computed for a batch. Fields of a branch that a pruned block does not have are None.

    residual_in, residual_out: (B, N, D) the residual stream before and after the block.
    attention_out, mlp_out: (B, N, D) what a branch adds to the stream; of a residual post-norm block, normed. In a
    pre-norm or residual post-norm block ``residual_out`` is ``residual_in + attention_out + mlp_out``.
    softmax_maps: (B, H, N, N), rows are queries; of differential attention (B, 2H, N, N), its H first maps, then its H
    second ones.
    context: (B, N, H d) all heads' weighted values, before the output projection.
    mlp_hidden: (B, N, M) after the activation.
    mix: lambda of differential attention, None for softmax attention.

    Tensors of a run with gradients are attached to its graph.
    """

    index: int
    residual_in: Tensor
    softmax_maps: Tensor | None
    context: Tensor | None
    attention_out: Tensor | None
    mlp_hidden: Tensor | None
    mlp_out: Tensor | None
    residual_out: Tensor
    mix: Tensor | None = None

    @property
    def attention(self) -> Tensor | None:
        """(B, H, N, N) how much each query weighs each token's value: for differential attention the difference of its
        two maps, whose rows sum to 1 - lambda."""
        if self.softmax_maps is None or self.mix is None:
            return self.softmax_maps
        first, second = self.softmax_maps.chunk(2, dim=1)
        return first - self.mix * second


class StateRecorder:
    """Runs a model block by block and hands out each block's states; made by `recorded`."""

    def __init__(self, model: ViT) -> None:
        self.model = model
        self._seen: dict[str, Tensor] = {}

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, N, D): patches, CLS, positions."""
        return self.model.embedded(images)

    def blocks(self, tokens: Tensor) -> Iterator[BlockStates]:
        """Run all blocks on embedded tokens (B, N, D). What the caller does not keep of a block is freed before the
        next."""
        for index, block in enumerate(self.model.block):
            yield (states := self._run_block(index, block, tokens))
            tokens = states.residual_out
            del states

    def run(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D): all blocks, for their last output alone."""
        for states in self.blocks(tokens):
            tokens = states.residual_out
            del states
        return tokens

    def classify(self, tokens: Tensor) -> Tensor:
        """(B, N, D) the last block's output -> (B, K) logits."""
        return self.model.classified(tokens)

    def watch(self, sites: Sequence[Tap]) -> list[RemovableHandle]:
        """Note the tensors of these sites while their block runs."""

        def note(tap: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(tap, Tap)
            self._seen[tap.site] = output

        return [tap.register_forward_hook(note) for tap in sites]

    def _run_block(self, index: int, block: nn.Module, tokens: Tensor) -> BlockStates:
        assert isinstance(block, Block)
        self._seen.clear()
        out = block(tokens)
        normed = block.order == "residual_post"
        site = f"block.{index}"
        attention, mlp = ("norm1", "norm2") if normed else ("attn.proj", "mlp.fc2")
        if self.model.config.layer_scale:
            attention, mlp = "attn.scaled", "mlp.scaled"
        hidden = "gated" if self.model.config.gated_mlp else "gelu"
        seen = self._seen.get
        states = BlockStates(
            index,
            residual_in=tokens,
            softmax_maps=seen(f"{site}.attn.softmax"),
            context=seen(f"{site}.attn.context"),
            attention_out=seen(f"{site}.{attention}") if block.has_attention else None,
            mlp_hidden=seen(f"{site}.mlp.{hidden}"),
            mlp_out=seen(f"{site}.{mlp}") if block.has_mlp else None,
            residual_out=out,
            mix=block.attn.mix if block.has_attention and block.attn.differential else None,
        )
        self._seen.clear()
        return states


_STATES = (
    *(".attn.softmax", ".attn.context", ".attn.proj", ".attn.scaled"),
    *(".mlp.gelu", ".mlp.gated", ".mlp.fc2", ".mlp.scaled"),
    *(".norm1", ".norm2"),
)


@contextmanager
def recorded(model: ViT, edits: Mapping[str, Edit] | None = None) -> Iterator[StateRecorder]:
    """A recorder of ``model``, which is in evaluation mode meanwhile; afterwards all its modules are as they were.

    ``edits``: site name -> what its tensor is replaced by. Gradients are recorded unless the caller switches them off.
    Raises UsageError for a site that the model does not have.
    """
    sites = taps(model)
    if strange := sorted(set(edits or {}) - set(sites)):
        raise UsageError(unknown("site", strange[0], list(sites)))
    modes = [(module, module.training) for module in model.modules()]
    recorder = StateRecorder(model)
    handles = [sites[site].register_forward_hook(_replacing(edit)) for site, edit in (edits or {}).items()]
    try:
        # a hook sees what the hooks before it made of the output
        handles += recorder.watch([tap for site, tap in sites.items() if _is_state(site)])
        model.eval()
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


def _is_state(site: str) -> bool:
    return site.endswith(_STATES)


def _replacing(edit: Edit) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def replace(_tap: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return edit(output)

    return replace
