"""Edge attribution patching: to first order, what the loss would gain if one part read a corrupt other part.

    s(u -> v) = sum over positions of (z_u^corrupt - z_u^clean) . dL / d(input_v),     the batch's mean

(Syed et al. 2023), with z_u what node u adds to the residual stream and input_v the stream as v reads it, the gradient
taken on the clean images. EAP-IG (Hanna et al. 2024) averages the gradient over m points between corrupt and clean images.
A component's score is the sum over the edges that leave it; its size, ``|s|``, ranks it.

Nodes: the embedding, heads, and runs of MLP neurons; readers: heads, runs of neurons, and the output. A reader's gradient is
that of the loss through it alone: back from its q, k, v (or hidden) values through its own rows of the weights and through
the LayerNorm. Edges need a residual stream that is a sum (pre-norm) and queries and keys without norms of their own; other
models have node scores only, from the gradient at the node's own output, which is what the edges sum up to in a pre-norm model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.models.vit import Block, Tap, ViT, taps
from testbed.sensitivity.circuits.ablation import written
from testbed.sensitivity.circuits.analysis_set import AnalysisSet, Corruption
from testbed.sensitivity.circuits.components import Component

Loss = Literal["task", "logit_difference", "kl"]
LOSSES: tuple[Loss, ...] = ("task", "logit_difference", "kl")
EMBED, OUTPUT = "embed", "output"
EDGE_NUMBERS = 1 << 24
"""Numbers of all nodes' changes that are held at a time: 128 MiB, and as many gradients."""


@dataclass(frozen=True)
class Attribution:
    """Scores of nodes and edges. nodes: component -> signed score; edges: (from, to) -> signed score, empty for a
    post-norm model."""

    nodes: dict[str, float]
    edges: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def ranked(self) -> list[str]:
        """Components, the most important first."""
        return sorted(self.nodes, key=lambda name: -abs(self.nodes[name]))


def eap(
    model: ViT,
    images: AnalysisSet,
    parts: Sequence[Component],
    *,
    loss: Loss = "task",
    corrupt: Corruption = "other_class",
    seed: int = 0,
    snr_db: float = 0.0,
    steps: int = 0,
    edges: bool = True,
) -> Attribution:
    """Scores of heads and runs of neurons. steps: points of the integrated gradient; 0 is plain EAP.

    loss: "task" cross-entropy; "logit_difference", of the corrupt image's class's logit (the best other class's where that
    is the same) less the true class's, so that a rise is a loss; "kl" of the clean output and the current one. Raises
    UsageError for "kl" without steps (its gradient is zero on clean images), blocks among the parts (theirs are the sums
    over their parts), an unknown loss, or no parts.
    """
    _check(parts, loss, steps)
    model.eval()
    other = images.corrupted(corrupt, seed, snr_db)
    against = images.labels[images.partners(seed)] if corrupt == "other_class" else images.labels
    total = _Scores(model, parts, edges and model.config.norm_order == "pre" and not model.config.qk_norm)
    for rows in images.batches():
        clean, bad = images.images[rows], other[rows]
        with torch.no_grad():
            reference = model(clean)
        changes = _changes(model, clean, bad)
        weight = 1 / max(steps, 1) / len(images)
        for alpha in _points(steps):
            between = bad + alpha * (clean - bad) if steps else clean
            total.add(between, changes, _Objective(loss, images.labels[rows], against[rows], reference), weight)
    return total.attribution()


def _points(steps: int) -> list[float]:
    """Midpoints of ``steps`` equal parts of the way from corrupt (0) to clean (1); plain EAP has the clean end."""
    return [(number + 0.5) / steps for number in range(steps)] if steps else [1.0]


def _check(parts: Sequence[Component], loss: str, steps: int) -> None:
    if loss not in LOSSES:
        raise UsageError(unknown("loss", loss, LOSSES))
    if loss == "kl" and not steps:
        raise UsageError(
            "the divergence from the clean output has no gradient on clean images; give steps, or a task loss"
        )
    if steps < 0:
        raise UsageError(f"steps must be 0 or more, not {steps}")
    check_parts(parts)


def check_parts(parts: Sequence[Component]) -> None:
    """Raises UsageError for no parts, and for blocks among them: theirs are the sums over their parts."""
    if not parts:
        raise UsageError("the model has no such components; choose others")
    if blocks := [part.name for part in parts if part.kind == "block"]:
        raise UsageError(f"{blocks[0]} is scored by its parts: give heads and chunks, and sum them up")


@dataclass(frozen=True)
class _Objective:
    loss: Loss
    labels: Tensor
    against: Tensor
    reference: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Summed over the batch: the mean over all images is taken at the end."""
        if self.loss == "task":
            return nn.functional.cross_entropy(logits, self.labels, reduction="sum")
        if self.loss == "kl":
            target = self.reference.log_softmax(-1)
            return nn.functional.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="sum")
        right = logits.gather(1, self.labels[:, None])[:, 0]
        own = nn.functional.one_hot(self.labels, logits.shape[1]).bool()
        best = logits.detach().masked_fill(own, -torch.inf).argmax(1)
        wrong = torch.where(self.against == self.labels, best, self.against)
        return (logits.gather(1, wrong[:, None])[:, 0] - right).sum()


# ---- values and gradients


_READ = (".attn.q", ".attn.k", ".attn.v", ".mlp.fc1", ".mlp.gate")


@contextmanager
def _noting(model: ViT, suffixes: tuple[str, ...], keep_graph: bool) -> Iterator[dict[str, Tensor]]:
    """Site -> its tensor of the next forward pass."""
    seen: dict[str, Tensor] = {}

    def note(tap: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(tap, Tap)
        seen[tap.site] = output if keep_graph else output.detach().clone()

    handles = [tap.register_forward_hook(note) for site, tap in taps(model).items() if site.endswith(suffixes)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _changes(model: ViT, clean: Tensor, bad: Tensor) -> dict[str, Tensor]:
    """What each written site, and the embedding, would change by: corrupt minus clean."""
    values = []
    for images in (clean, bad):
        with torch.no_grad(), _noting(model, (*written(model.config), EMBED), keep_graph=False) as seen:
            model(images)
        values.append(seen)
    return {site: values[1][site] - value for site, value in values[0].items() if site != "patch_embed"}


class _Scores:
    """Sums over batches and points."""

    def __init__(self, model: ViT, parts: Sequence[Component], edges: bool) -> None:
        self._model, self._parts, self._edges = model, list(parts), edges
        self._nodes = torch.zeros(len(parts), dtype=torch.float64)
        sources = 1 + len(parts)  # the embedding first
        self._table = torch.zeros(sources, len(parts) + 1, dtype=torch.float64)  # the output last
        written = [(-1, 0), *(_order(part) for part in parts)]
        read = [*(_order(part) for part in parts), (model.config.depth, 0)]
        self._before = torch.tensor([[source < reader for reader in read] for source in written])

    def add(self, images: Tensor, changes: dict[str, Tensor], objective: _Objective, weight: float) -> None:
        model = self._model
        last = _last_residual(model)
        suffixes = (*written(model.config), *_READ, ".attn.residual", ".mlp.residual", EMBED)
        with torch.enable_grad(), _noting(model, suffixes, keep_graph=True) as seen:
            value = objective(model(images.clone().requires_grad_(True)))
            wanted = [site for site in seen if site.endswith((*written(model.config), *_READ)) or site == last]
            grads = dict(zip(wanted, torch.autograd.grad(value, [seen[site] for site in wanted]), strict=True))
        for number, part in enumerate(self._parts):
            site, columns = _written_at(model, part)
            own = (changes[site][..., columns].double() * grads[site][..., columns].double()).sum()
            self._nodes[number] += weight * float(own)
        if self._edges:
            size = max(1, EDGE_NUMBERS // (len(self._table) * seen[last][0].numel()))
            for start in range(0, len(images), size):
                some = slice(start, start + size)
                streams, changed, slopes = (
                    {site: value[some].detach() for site, value in values.items()} for values in (seen, changes, grads)
                )
                self._add_edges(streams, changed, slopes, slopes[last], weight)

    def _add_edges(
        self,
        streams: dict[str, Tensor],
        changes: dict[str, Tensor],
        grads: dict[str, Tensor],
        output: Tensor,
        weight: float,
    ) -> None:
        """Adds edges for every reader: its own gradient of the stream, and from there every node that comes before
        it."""
        model = self._model
        written = [changes[EMBED], *(_contribution(model, part, changes) for part in self._parts)]
        read = [*(_reading(model, part, streams, grads) for part in self._parts), output]
        products = torch.stack([w.flatten() for w in written]).double() @ (
            torch.stack([r.flatten() for r in read]).double().T
        )
        self._table += weight * torch.where(self._before, products, torch.zeros_like(products))

    def attribution(self) -> Attribution:
        names = [part.name for part in self._parts]
        nodes = dict(zip(names, self._nodes.tolist(), strict=True))
        if not self._edges:
            return Attribution(nodes)
        edges = {
            (source, reader): float(self._table[row, column])
            for row, source in enumerate([EMBED, *names])
            for column, reader in enumerate([*names, OUTPUT])
            if self._before[row, column]
        }
        return Attribution(nodes, edges)


def _order(part: Component) -> tuple[int, int]:
    """Where in the forward pass a component reads and writes: heads of a block before its MLP."""
    return part.block, 0 if part.kind == "head" else 1


def _last_residual(model: ViT) -> str:
    """The stream as the output reads it."""
    sites = [site for site in taps(model) if site == EMBED or site.endswith(".residual")]
    if model.config.norm_order == "post":
        sites = [site for site in taps(model) if site == EMBED or site.endswith((".norm1", ".norm2"))]
    return sites[-1]


def _block(model: ViT, part: Component) -> Block:
    block = model.block[part.block]
    assert isinstance(block, Block)
    return block


def _written_at(model: ViT, part: Component) -> tuple[str, list[int]]:
    """Where the component's values are, before its branch's output projection: site and columns."""
    if part.kind == "head":
        width = _block(model, part).attn.head_width
        columns = [c for head in part.heads for c in range(head * width, (head + 1) * width)]
        return f"block.{part.block}.attn.context", columns
    return f"block.{part.block}{written(model.config)[1]}", list(part.neurons)


def _contribution(model: ViT, part: Component, changes: dict[str, Tensor]) -> Tensor:
    """(B, N, D): by how much the component would change the stream."""
    block = _block(model, part)
    site, columns = _written_at(model, part)
    weight = block.attn.output_weight if part.kind == "head" else block.mlp.output_weight
    return changes[site][..., columns] @ weight.detach()[:, columns].T


def _reading(model: ViT, part: Component, streams: dict[str, Tensor], grads: dict[str, Tensor]) -> Tensor:
    """(B, N, D): gradient of the loss at the stream, through this component's own reading of it."""
    block, site = _block(model, part), f"block.{part.block}"
    if part.kind == "head":
        width, inner = block.attn.head_width, block.attn.heads * block.attn.head_width
        weight = block.attn.qkv.weight.detach().reshape(3, block.attn.heads, width, -1)[:, list(part.heads)]
        back = [grads[f"{site}.attn.{name}"][:, list(part.heads)] for name in ("q", "k", "v")]  # (B, h, N, d)
        assert inner == block.attn.qkv.out_features // 3
        normed = sum((torch.einsum("bhnd,hdw->bnw", g, weight[number]) for number, g in enumerate(back)))
        stream, norm = _before(model, part.block, "attn", streams), block.norm1
    else:
        columns = list(part.neurons)
        maps = [("fc1", block.mlp.fc1), *([("gate", block.mlp.gate)] if block.mlp.is_gated else [])]
        normed = sum(grads[f"{site}.mlp.{name}"][..., columns] @ fc.weight.detach()[columns] for name, fc in maps)
        stream, norm = _before(model, part.block, "mlp", streams), block.norm2
    assert isinstance(normed, Tensor)
    with torch.enable_grad():
        x = stream.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(norm(x), x, normed)
    return gradient


def _before(model: ViT, block: int, branch: str, streams: dict[str, Tensor]) -> Tensor:
    """The stream as a branch of a pre-norm block reads it."""
    names = [EMBED]
    for number in range(block + 1):
        if number < block or branch == "mlp":
            names.append(f"block.{number}.attn.residual")
        if number < block:
            names.append(f"block.{number}.mlp.residual")
    return streams[next(name for name in reversed(names) if name in streams)]
