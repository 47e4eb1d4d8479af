"""What each component adds to the residual stream.

block          the outputs of its attention and of its MLP, each with its bias
head           its columns of the context, times those columns of attention's output weights
chunk, neuron  its columns of the MLP's hidden values, times those columns of the MLP's output weights

A branch's bias belongs to no head and to no neuron. In a residual post-norm block what is added is behind a LayerNorm;
with its deviation as a constant that norm is linear, and the shares of heads and neurons add up to the branch's output
but for the norm's bias.

Shapes: B images, N tokens, D width, C columns of a branch (its context's or its hidden values'), P components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.models.vit import Block, ViT
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.class_space.explain.attnlrp import images_at_once
from testbed.sensitivity.class_space.recorder import BlockStates, StateRecorder

BranchKey = tuple[int, bool]
"""Block, and whether the branch is attention."""


@dataclass(frozen=True)
class BranchStates:
    """One branch of one block, for a batch.

    values: (B, N, C) what the output weights (D, C) are applied to; output: (B, N, D) what is added to ``stream``
    (B, N, D); scale: (B, N, D) weight over deviation of the norm of a residual post-norm branch; norm_behind: of the sum,
    in a post-norm block.
    """

    key: BranchKey
    values: Tensor
    weight: Tensor
    output: Tensor
    stream: Tensor
    scale: Tensor | None
    norm_behind: nn.Module | None

    def share(self, columns: Sequence[int]) -> Tensor:
        """(B, N, D) what these columns add to the stream."""
        chosen = list(columns)
        share = self.values[..., chosen] @ self.weight[:, chosen].T
        return share if self.scale is None else (share - share.mean(-1, keepdim=True)) * self.scale

    def products(self, gradient: Tensor) -> Tensor:
        """(B, C) float64: each column's share times the gradient (B, N, D) at the output, summed over tokens."""
        gradient = gradient.double()
        if self.scale is not None:
            scaled = gradient * self.scale.double()
            gradient = scaled - scaled.mean(-1, keepdim=True)
        return (self.values.double() * (gradient @ self.weight.double())).sum(1)

    def behind(self, total: Tensor) -> Tensor:
        """(B, N, D) the stream behind the branch, for a sum of stream and output."""
        return total if self.norm_behind is None else self.norm_behind(total)


def branches(model: ViT, states: BlockStates) -> Iterator[BranchStates]:
    """Attention, then the MLP, as far as the block has them."""
    block = model.block[states.index]
    assert isinstance(block, Block)
    post = block.order == "post"
    stream = states.residual_in
    if states.attention_out is not None and states.context is not None:
        norm = block.norm1 if block.order == "residual_post" else None
        attention = BranchStates(
            (states.index, True),
            states.context.detach(),
            block.attn.output_weight.detach(),
            states.attention_out.detach(),
            stream.detach(),
            _scale(norm, block.attn.proj, states.context),
            block.norm1 if post else None,
        )
        yield attention
        stream = attention.behind(stream + states.attention_out)
    elif post:
        stream = block.norm1(stream)
    if states.mlp_out is not None and states.mlp_hidden is not None:
        norm = block.norm2 if block.order == "residual_post" else None
        yield BranchStates(
            (states.index, False),
            states.mlp_hidden.detach(),
            block.mlp.output_weight.detach(),
            states.mlp_out.detach(),
            stream.detach(),
            _scale(norm, block.mlp.fc2, states.mlp_hidden),
            block.norm2 if post else None,
        )


def _scale(norm: nn.LayerNorm | None, output: nn.Linear, values: Tensor) -> Tensor | None:
    if norm is None:
        return None
    with torch.no_grad():
        raw = output(values)
        return norm.weight / (raw.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()


def columns_of(model: ViT, part: Component) -> list[int]:
    """The columns of its branch that a head, a chunk or a neuron stands for."""
    if part.kind == "head":
        width = model.config.head_width
        return [column for head in part.heads for column in range(head * width, (head + 1) * width)]
    return list(part.neurons)


def belongs(part: Component, branch: BranchStates) -> bool:
    """Is the component a part of the branch, or its block?"""
    block, is_attention = branch.key
    return part.block == block and (part.kind == "block" or (part.kind == "head") == is_attention)


def graph_batches(model: ViT, images: AnalysisSet) -> Iterator[slice]:
    """Rows of the analysis set, as many at a time as the graph of all blocks has memory for."""
    at_once = images_at_once(model.config)
    for rows in images.batches():
        for start in range(rows.start, rows.stop, at_once):
            yield slice(start, min(start + at_once, rows.stop))


def gradient_products(
    recorder: StateRecorder, images: Tensor, parts: Sequence[Component], objective: Callable[[Tensor], Tensor]
) -> Tensor:
    """(B, P) float64: what each component adds to the stream, times the gradient there, summed over tokens.

    objective: logits (B, K) -> the number whose gradient is taken.
    """
    model = recorder.model
    with torch.enable_grad():
        tokens = recorder.embed(images).detach().requires_grad_()
        blocks = []
        for states in recorder.blocks(tokens):
            blocks.append(states)
            tokens = states.residual_out
        outputs = _outputs(blocks)
        value = objective(recorder.classify(tokens))
        gradients = dict(zip(outputs, torch.autograd.grad(value, list(outputs.values())), strict=True))
    totals = torch.zeros(len(images), len(parts), dtype=torch.float64)
    for states in blocks:
        for branch in branches(model, states):
            gradient = gradients[branch.key]
            columns = branch.products(gradient)
            whole = (branch.output.double() * gradient.double()).sum((1, 2))
            for number, part in enumerate(parts):
                if belongs(part, branch):
                    is_block = part.kind == "block"
                    totals[:, number] += whole if is_block else columns[:, columns_of(model, part)].sum(1)
    return totals


def _outputs(blocks: Sequence[BlockStates]) -> dict[BranchKey, Tensor]:
    outputs: dict[BranchKey, Tensor] = {}
    for states in blocks:
        for is_attention, output in ((True, states.attention_out), (False, states.mlp_out)):
            if output is not None:
                outputs[states.index, is_attention] = output
    return outputs


def named_scores(method: str, parts: Sequence[Component], values: Tensor) -> dict[str, float]:
    """Component -> score. values: (P,). Raises UsageError for one that is no number."""
    scores = dict(zip([part.name for part in parts], values.tolist(), strict=True))
    if bad := next((name for name, value in scores.items() if not abs(value) < float("inf")), None):
        raise UsageError(f"{method} of {bad} is {scores[bad]}: the model's values are NaN or infinite on these images")
    return scores
