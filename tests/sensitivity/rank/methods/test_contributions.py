"""Shares of heads and neurons add up to what their branch adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import components
from testbed.sensitivity.class_space.recorder import recorded
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.contributions import belongs, branches, columns_of
from tests.support.site_tensors import site_tensors

GATED = {"layer_scale": True, "gated_mlp": True, "activation": "silu", "qk_norm": True, "registers": 2}


@pytest.mark.parametrize("more", [{}, GATED], ids=["plain", "gated and scaled"])
@pytest.mark.parametrize("norm_order", ["pre", "post", "residual_post"])
@pytest.mark.parametrize("attention", ["softmax", "differential"])
def test_shares_and_bias_are_the_branchs_output_and_sum_to_the_stream_behind(
    make_model: Callable[..., ViT], scored: ScoredImages, norm_order: str, attention: str, more: dict[str, Any]
) -> None:
    if more and (norm_order, attention) != ("pre", "softmax"):
        pytest.skip("no such model")
    model = make_model(norm_order=norm_order, attention=attention, **more).double()
    images = scored.analysis.images.double()
    seen = site_tensors(model, images)
    parts = components(model.config, ["head", "neuron"])
    with recorded(model) as recorder, torch.no_grad():
        for states in recorder.blocks(recorder.embed(images)):
            for branch in branches(model, states):
                name, norm = ("attn", "norm1") if branch.key[1] else ("mlp", "norm2")
                site = f"block.{states.index}"
                block = model.get_submodule(site)
                output_bias: torch.Tensor = block.get_parameter("attn.proj.bias" if name == "attn" else "mlp.fc2.bias")
                if more:
                    output_bias = output_bias * block.get_parameter(f"{name}.layerscale")
                bias = output_bias if norm_order != "residual_post" else block.get_parameter(f"{norm}.bias")
                shares = [branch.share(columns_of(model, part)) for part in parts if belongs(part, branch)]
                if norm_order == "residual_post":  # the output's bias goes through the norm, too
                    centred = output_bias - output_bias.mean()
                    assert branch.scale is not None
                    shares.append(centred * branch.scale)
                torch.testing.assert_close(torch.stack(shares).sum(0) + bias, branch.output)
                behind = f"{site}.{norm}" if norm_order == "post" else f"{site}.{name}.residual"
                wanted = torch.from_numpy(seen[behind])
                torch.testing.assert_close(branch.behind(branch.stream + branch.output), wanted)


def test_products_are_those_of_the_shares(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    model = make_model(norm_order="residual_post").double()
    generator = torch.Generator().manual_seed(2)
    with recorded(model) as recorder, torch.no_grad():
        for states in recorder.blocks(recorder.embed(scored.analysis.images.double())):
            for branch in branches(model, states):
                gradient = torch.randn(branch.output.shape, generator=generator, dtype=torch.float64)
                products = branch.products(gradient)
                for column in range(products.shape[1]):
                    wanted = (branch.share([column]) * gradient).sum((1, 2))
                    torch.testing.assert_close(products[:, column], wanted)
