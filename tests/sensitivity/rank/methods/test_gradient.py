"""Gradient times value against autograd of a gate by hand: the derivative of the loss as the component is scaled, at 1."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from testbed.models.vit import ViT, taps
from testbed.sensitivity.circuits.components import Component, components
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.gradient import gradient_scores, loss_changes


def gated_loss_derivative(model: ViT, images: Tensor, labels: Tensor, gates: dict[str, slice]) -> list[float]:
    """Of each image's loss with respect to one gate, 1 now, on these columns of these sites."""
    derivatives = []
    for image, label in zip(images, labels, strict=True):
        gate = torch.ones((), dtype=torch.float64, requires_grad=True)

        def scale(_module: nn.Module, _inputs: object, output: Tensor, columns: slice, gate: Tensor = gate) -> Tensor:
            mask = torch.ones(output.shape[-1], dtype=torch.float64)
            mask[columns] = 0
            return output * mask + output * (1 - mask) * gate

        handles = [
            taps(model)[site].register_forward_hook(
                lambda module, inputs, output, columns=columns: scale(module, inputs, output, columns)
            )
            for site, columns in gates.items()
        ]
        loss = nn.functional.cross_entropy(model(image[None]), label[None])
        derivatives.append(float(torch.autograd.grad(loss, gate)[0]))
        for handle in handles:
            handle.remove()
    return derivatives


def gates_of(part: Component, norm_order: str) -> dict[str, slice]:
    block = f"block.{part.block}"
    if part.kind == "head":
        return {f"{block}.attn.context": slice(4 * part.number, 4 * part.number + 4)}
    if part.kind == "chunk":
        return {f"{block}.mlp.gelu": slice(part.neurons[0], part.neurons[-1] + 1)}
    names = ("norm1", "norm2") if norm_order == "residual_post" else ("attn.proj", "mlp.fc2")
    return {f"{block}.{name}": slice(None) for name in names}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, ["head", "chunk", "block"]),
        ({"norm_order": "post"}, ["head", "chunk", "block"]),
        ({"attention": "differential", "pooling": "mean"}, ["head", "chunk", "block"]),
        ({"norm_order": "residual_post"}, ["block"]),
    ],
)
def test_it_is_the_derivative_of_a_gate(
    make_model: Callable[..., ViT], scored: ScoredImages, changes: dict[str, str], kinds: list[str]
) -> None:
    model = make_model(**changes).double()
    analysis = scored.analysis
    images = type(analysis)(analysis.images.double(), analysis.labels, analysis.ids)
    parts = components(model.config, kinds, 3)
    changed = loss_changes(model, images, parts)
    for number, part in enumerate(parts):
        gates = gates_of(part, model.config.norm_order)
        wanted = gated_loss_derivative(model, images.images, images.labels, gates)
        torch.testing.assert_close(changed[:, number], torch.tensor(wanted, dtype=torch.float64))


def test_a_score_is_the_mean_size(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    model = make_model()
    parts = components(model.config, ["head"])
    scores = gradient_scores(model, scored, parts, scored.settings)
    changed = loss_changes(model, scored.analysis, parts)
    assert (changed < 0).any()
    assert (changed > 0).any()
    assert list(scores.values()) == pytest.approx(changed.abs().mean(0).tolist())


def test_large_models_are_looked_at_a_few_images_at_a_time(
    make_model: Callable[..., ViT], scored: ScoredImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model().double()
    images = type(scored.analysis)(scored.analysis.images.double(), scored.analysis.labels, scored.analysis.ids)
    parts = components(model.config, ["head", "block"])
    at_once = loss_changes(model, images, parts)
    monkeypatch.setattr("testbed.sensitivity.class_space.explain.attnlrp.GRAPH_BYTES", 1)
    sizes: list[int] = []
    model.embed.register_forward_hook(lambda _module, _inputs, output: sizes.append(len(output)))
    torch.testing.assert_close(loss_changes(model, images, parts), at_once)
    assert sizes == [1] * 12


def test_values_that_are_no_numbers_are_told(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    from testbed.core.errors import UsageError

    model = make_model()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(
        UsageError, match=r"gradient of block\.0\.head\.0 is nan: the model's values are NaN or infinite"
    ):
        gradient_scores(model, scored, components(model.config, ["head"]), scored.settings)
