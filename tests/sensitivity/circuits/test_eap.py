"""Attribution against finite differences of the patched loss, edge by edge; and what it must not depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from testbed.core.errors import UsageError
from testbed.models.vit import ViT, taps
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import Component, components
from testbed.sensitivity.circuits.eap import EMBED, OUTPUT, eap
from tests.support.blocks import blocks_of


def recorded(model: ViT, images: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = [
        t.register_forward_hook(lambda t, _, out: seen.update({t.site: out.detach()})) for t in taps(model).values()
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return seen


def written(model: ViT, part: Component | None, seen: dict[str, Tensor]) -> Tensor:
    """What a node adds to the stream."""
    if part is None:
        return seen["embed"]
    block = blocks_of(model)[part.block]
    if part.kind == "head":
        d = block.attn.head_width
        own = slice(part.heads[0] * d, (part.heads[0] + 1) * d)
        return seen[f"block.{part.block}.attn.context"][..., own] @ block.attn.proj.weight[:, own].T
    columns = list(part.neurons)
    return seen[f"block.{part.block}.mlp.gelu"][..., columns] @ block.mlp.fc2.weight[:, columns].T


def forward_with(model: ViT, images: Tensor, change: Tensor, reader: Component | None) -> Tensor:
    """Logits when one reader, and it alone, reads the stream changed by ``change``. Written out, block by block."""
    x = model.embedded(images)
    for number, block in enumerate(blocks_of(model)):
        for branch in ("attn", "mlp"):
            norm = block.norm1 if branch == "attn" else block.norm2
            module = getattr(block, branch)
            normal = module(norm(x))
            mine = reader is not None and reader.block == number and (reader.kind == "head") == (branch == "attn")
            if mine:
                assert reader is not None
                normal = normal + read_alone(module, norm(x), norm(x + change), reader) - normal
            x = x + normal
    return model.classified(x if reader is not None else x + change)


def read_alone(module: Any, plain: Tensor, changed: Tensor, reader: Component) -> Tensor:
    """The branch's output with the reader's own q, k, v (or hidden values) taken from the changed input."""
    sites = [module.q, module.k, module.v] if reader.kind == "head" else [module.hidden]
    kept: dict[str, Tensor] = {}
    handles = [s.register_forward_hook(lambda s, _, out: kept.update({s.site: out})) for s in sites]
    module(changed)
    for handle in handles:
        handle.remove()

    def swap(tap: Any, _inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        if reader.kind == "head":
            output[:, list(reader.heads)] = kept[tap.site][:, list(reader.heads)]
        else:
            output[..., list(reader.neurons)] = kept[tap.site][..., list(reader.neurons)]
        return output

    handles = [s.register_forward_hook(swap) for s in sites]
    found = module(plain)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("corrupt", ["other_class", "mean"])
def test_edges_are_the_finite_differences_of_the_patched_loss(
    make_model: Callable[..., ViT], analysis: AnalysisSet, corrupt: Any
) -> None:
    model = make_model().double()
    images = replace(analysis, images=analysis.images.double())
    parts = components(model.config, ["head", "chunk"], chunks=2)
    found = eap(model, images, parts, corrupt=corrupt)
    bad = images.corrupted(corrupt).double()
    clean_seen, bad_seen = recorded(model, images.images), recorded(model, bad)

    def loss(change: Tensor, reader: Component | None) -> float:
        with torch.no_grad():
            return float(
                torch.nn.functional.cross_entropy(forward_with(model, images.images, change, reader), images.labels)
            )

    named: dict[str, Component | None] = {part.name: part for part in parts}
    assert len(found.edges) == 9 + 8 + 6 * 4  # to the output, from the embedding, between four groups of two
    for (source, reader), score in found.edges.items():
        part, reading = (None if source == EMBED else named[source]), (None if reader == OUTPUT else named[reader])
        change = written(model, part, bad_seen) - written(model, part, clean_seen)
        eps = 1e-5
        slope = (loss(eps * change, reading) - loss(-eps * change, reading)) / (2 * eps)
        assert score == pytest.approx(slope, abs=1e-6, rel=1e-4), (source, reader)


@pytest.mark.parametrize("changes", [{}, {"layer_scale": True, "gated_mlp": True, "activation": "silu"}])
def test_a_nodes_score_is_the_sum_of_its_edges(
    make_model: Callable[..., ViT], analysis: AnalysisSet, changes: dict[str, Any]
) -> None:
    """Two roads to one number: the gradient at the node's own output, and the readers' gradients one by one."""
    model = make_model(depth=3, **changes)
    found = eap(model, analysis, components(model.config, ["head", "chunk"], chunks=3))
    for name, score in found.nodes.items():
        assert score == pytest.approx(sum(s for (source, _), s in found.edges.items() if source == name), abs=1e-5)


@pytest.mark.parametrize("loss", ["task", "logit_difference", "kl"])
@pytest.mark.parametrize("steps", [0, 3])
def test_no_score_depends_on_the_order_of_the_images(
    make_model: Callable[..., ViT], analysis: AnalysisSet, loss: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loss == "kl" and not steps:
        return
    model = make_model()
    parts = components(model.config, ["head", "chunk"], chunks=2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    turned = AnalysisSet(analysis.images[order], analysis.labels[order], tuple(analysis.ids[n] for n in order.tolist()))
    first = eap(model, analysis, parts, loss=loss, steps=steps)
    monkeypatch.setattr("testbed.sensitivity.circuits.analysis_set.BATCH", 5)
    second = eap(model, turned, parts, loss=loss, steps=steps)
    for name, score in first.nodes.items():
        assert score == pytest.approx(second.nodes[name], abs=2e-6)


def test_integrated_gradients_of_the_whole_stream_add_up_to_the_change_of_the_loss(
    make_model: Callable[..., ViT], analysis: AnalysisSet
) -> None:
    """Completeness, in a model whose stream is the embedding alone: the edge to the output is L(corrupt) - L(clean).

    The path is straight in the images, and so in the embedding, which is linear in them.
    """
    model = make_model(depth=1, pooling="mean").double()
    with torch.no_grad():  # the block adds next to nothing
        (block,) = blocks_of(model)
        block.attn.proj.weight.mul_(1e-9)
        block.mlp.fc2.weight.mul_(1e-9)
    images = replace(analysis, images=analysis.images.double())
    bad = images.corrupted("other_class")
    found = eap(model, images, components(model.config), steps=200)
    with torch.no_grad():
        clean_loss, bad_loss = (
            float(torch.nn.functional.cross_entropy(model(x), images.labels)) for x in (images.images, bad)
        )
    assert found.edges[EMBED, OUTPUT] == pytest.approx(bad_loss - clean_loss, rel=1e-3)


def test_edges_to_the_output_of_a_linear_reader_are_the_patched_loss_itself(
    make_model: Callable[..., ViT], analysis: AnalysisSet
) -> None:
    """Without a final norm a logit difference is linear in the stream that the output reads: there EAP is exact."""
    model = make_model(pooling="mean", final_norm="none").double()
    images = replace(analysis, images=analysis.images.double())
    parts = components(model.config, ["head", "chunk"], chunks=2)
    bad = images.corrupted("other_class")
    clean_seen, bad_seen = recorded(model, images.images), recorded(model, bad)
    against = images.labels[images.partners(0)]

    def loss(change: Tensor) -> float:
        with torch.no_grad():
            logits = forward_with(model, images.images, change, None)
        rows = torch.arange(len(logits))
        return float((logits[rows, against] - logits[rows, images.labels]).mean())

    for steps in (0, 3):
        scored = eap(model, images, parts, loss="logit_difference", steps=steps)
        for part in (None, *parts):
            change = written(model, part, bad_seen) - written(model, part, clean_seen)
            patched = loss(change) - loss(torch.zeros_like(change))
            edge = scored.edges[EMBED if part is None else part.name, OUTPUT]
            assert edge == pytest.approx(patched, abs=1e-9)


def test_edges_do_not_depend_on_how_many_images_are_held_at_a_time(
    make_model: Callable[..., ViT], analysis: AnalysisSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    parts = components(model.config, ["head", "chunk"], chunks=2)
    together = eap(model, analysis, parts).edges
    monkeypatch.setattr("testbed.sensitivity.circuits.eap.EDGE_NUMBERS", 1)
    assert eap(model, analysis, parts).edges == pytest.approx(together, abs=1e-9)


def test_a_post_norm_model_has_node_scores_and_no_edges(make_model: Callable[..., ViT], analysis: AnalysisSet) -> None:
    model = make_model(norm_order="post", final_norm="none")
    found = eap(model, analysis, components(model.config))
    assert not found.edges
    assert any(abs(score) > 1e-4 for score in found.nodes.values())


def test_what_makes_no_sense_is_refused(make_model: Callable[..., ViT], analysis: AnalysisSet) -> None:
    model = make_model()
    parts = components(model.config)
    for arguments, told in (
        ({"loss": "kl"}, "no gradient on clean images"),
        ({"loss": "accuracy"}, "unknown loss"),
        ({"corrupt": "shuffle"}, "unknown corruption"),
        ({"steps": -1}, "0 or more"),
    ):
        with pytest.raises(UsageError, match=told):
            eap(model, analysis, parts, **arguments)
    with pytest.raises(UsageError, match=r"block\.0 is scored by its parts"):
        eap(model, analysis, components(model.config, ["block"]))
    one = AnalysisSet(analysis.images[:2], torch.zeros(2, dtype=torch.long), ("a", "b"))
    with pytest.raises(UsageError, match="of one class"):
        eap(model, one, parts)
