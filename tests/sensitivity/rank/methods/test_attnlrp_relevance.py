"""Relevance of components: a closed form, the explanation of the same name, and conservation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from testbed.models.vit import ViT, taps
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import components
from testbed.sensitivity.class_space.explain.attnlrp import token_relevance
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.attnlrp import attnlrp_scores, component_relevance
from tests.support.site_tensors import site_tensors


def in_double(images: AnalysisSet) -> AnalysisSet:
    return AnalysisSet(images.images.double(), images.labels, images.ids)


def without_biases(model: ViT) -> ViT:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


def logits_by_part(model: ViT, images: AnalysisSet, added: Tensor, last: Tensor) -> Tensor:
    """(B,) what ``added`` (B, D), a summand of the last CLS state ``last``, is of the true class's logit, the norm's
    deviation a constant."""
    deviation = (last.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = (added - added.mean(-1, keepdim=True)) / deviation * model.get_parameter("norm.weight")
    return (normed @ model.head.weight.T).gather(1, images.labels[:, None])[:, 0]


def test_the_last_mlp_is_its_part_of_the_logit(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    """Behind the last block lie the norm and the head alone: what is in closed form."""
    model, images = make_model().double(), in_double(scored.analysis)
    seen = {site: torch.from_numpy(value) for site, value in site_tensors(model, images.images).items()}
    last = seen["block.1.mlp.residual"][:, 0]
    parts = [part for part in components(model.config, ["chunk"], 3) if part.block == 1]
    weight = model.get_parameter("block.1.mlp.fc2.weight")
    with torch.no_grad():
        for number, part in enumerate(parts):
            columns = list(part.neurons)
            added = seen["block.1.mlp.gelu"][:, 0, columns] @ weight[:, columns].T
            wanted = logits_by_part(model, images, added, last)
            torch.testing.assert_close(component_relevance(model, images, parts)[:, number], wanted)


def test_relevance_is_conserved(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    """Without biases the logit is what the stream, attention and the MLP bring to the last state."""
    model, images = without_biases(make_model(depth=1)).double(), in_double(scored.analysis)
    seen = {site: torch.from_numpy(value) for site, value in site_tensors(model, images.images).items()}
    last = seen["block.0.mlp.residual"][:, 0]
    with torch.no_grad():
        direct = logits_by_part(model, images, seen["embed"][:, 0] + seen["block.0.attn.proj"][:, 0], last)
    neurons = component_relevance(model, images, components(model.config, ["neuron"])).sum(1)
    logits = seen["logits"].gather(1, images.labels[:, None])[:, 0]
    torch.testing.assert_close(direct + neurons, logits)


@contextmanager
def detached(model: ViT, site: str) -> Iterator[None]:
    """Nothing is propagated back through this site."""
    handle = taps(model)[site].register_forward_hook(lambda _module, _inputs, output: output.detach())
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize(
    "changes", [{}, {"attention": "differential"}, {"pooling": "mean"}, {"layer_scale": True, "registers": 2}]
)
def test_it_is_what_the_explanation_loses_without_it(
    make_model: Callable[..., ViT], scored: ScoredImages, changes: dict[str, str], block: int
) -> None:
    """An MLP without biases hands on to the tokens all that it was given, through the block's earlier attention only in
    part: so attention carries nothing here."""
    model, images = without_biases(make_model(**changes)).double(), in_double(scored.analysis)
    with torch.no_grad():
        for blocks in range(2):
            model.get_parameter(f"block.{blocks}.attn.proj.weight").zero_()
    whole = token_relevance(model, images.images, images.labels).sum(1)
    with detached(model, f"block.{block}.mlp.fc2"):
        rest = token_relevance(model, images.images, images.labels).sum(1)
    parts = [part for part in components(model.config, ["chunk"], 3) if part.block == block]
    relevance = component_relevance(model, images, parts).sum(1)
    assert relevance.abs().min() > 1e-6
    torch.testing.assert_close(relevance, whole - rest)


def test_a_score_is_the_mean_size(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    model = make_model()
    parts = components(model.config, ["head", "chunk", "block"], 3)
    relevance = component_relevance(model, scored.analysis, parts)
    assert (relevance < 0).any()
    wanted = relevance.abs().mean(0).tolist()
    assert list(attnlrp_scores(model, scored, parts, scored.settings).values()) == pytest.approx(wanted)
