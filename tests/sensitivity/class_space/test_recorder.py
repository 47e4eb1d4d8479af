import itertools
from typing import Any

import pytest
import torch

from testbed.core.errors import UsageError
from testbed.models.vit import ViT, taps
from testbed.sensitivity.class_space.recorder import recorded

VARIANTS: list[dict[str, Any]] = [
    {},
    {"norm_order": "post", "final_norm": "none"},
    {"norm_order": "residual_post"},
    {"pooling": "mean", "cls_token": False, "final_norm": "tokens"},
    {"attention": "differential"},
    {"dropout": 0.5},
    {"layer_scale": True, "gated_mlp": True, "activation": "silu", "qk_norm": True, "registers": 2},
]


def images(n=3):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def run(model, edits=None):
    with recorded(model, edits) as recorder, torch.no_grad():
        blocks = list(recorder.blocks(recorder.embed(images())))
        return blocks, recorder.classify(blocks[-1].residual_out)


@pytest.mark.parametrize("changes", VARIANTS)
def test_logits_are_the_models_own_bits(make_model, changes):
    model = make_model(**changes)
    _, logits = run(model)
    with torch.no_grad():
        assert torch.equal(logits, model(images()))


@pytest.mark.parametrize("changes", VARIANTS)
def test_branches_add_up_to_the_stream(make_model, changes):
    model = make_model(**changes)
    blocks, _ = run(model)
    for states in blocks:
        block = model.block[states.index]
        if block.order == "post":
            middle = block.norm1(states.residual_in + states.attention_out)
            torch.testing.assert_close(states.residual_out, block.norm2(middle + states.mlp_out))
        else:
            torch.testing.assert_close(states.residual_out, states.residual_in + states.attention_out + states.mlp_out)
    assert all(torch.equal(a.residual_out, b.residual_in) for a, b in itertools.pairwise(blocks))


def test_attention_is_the_softmax_of_the_scaled_products(make_model):
    model = make_model()
    blocks, _ = run(model)
    for states in blocks:
        block = model.block[states.index]
        normed = block.norm1(states.residual_in)
        q, k, v = block.attn.qkv(normed).chunk(3, dim=-1)
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            map_ = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)
            torch.testing.assert_close(states.attention[:, head], map_)
            torch.testing.assert_close(states.context[..., part], map_ @ v[..., part])
        torch.testing.assert_close(states.attention_out, block.attn.proj(states.context))
        torch.testing.assert_close(states.mlp_out, block.mlp.fc2(states.mlp_hidden))


def test_differential_attention_gives_both_maps_and_their_difference(make_model):
    model = make_model(attention="differential")
    (states, _), _ = run(model)
    assert states.softmax_maps.shape == (3, 4, 5, 5)
    mix = model.block[0].attn.mix
    torch.testing.assert_close(states.attention, states.softmax_maps[:, :2] - mix * states.softmax_maps[:, 2:])
    torch.testing.assert_close(states.attention.sum(-1), torch.full((3, 2, 5), 1 - mix.item()))


def test_a_branch_that_was_cut_is_none(make_model):
    blocks, _ = run(ViT(make_model().config.with_(heads=(0, 2), mlp=(6, 0))))
    assert blocks[0].attention_out is None
    assert blocks[0].attention is None
    assert blocks[1].mlp_out is None
    assert blocks[1].mlp_hidden is None
    torch.testing.assert_close(blocks[0].residual_out, blocks[0].residual_in + blocks[0].mlp_out)


def test_an_edit_is_recorded_and_carried_on(make_model):
    model = make_model()
    uniform = torch.full((3, 2, 5, 5), 0.2)
    plain, _ = run(model)
    edited, logits = run(model, {"block.1.attn.softmax": lambda _: uniform})
    assert torch.equal(edited[0].residual_out, plain[0].residual_out)
    assert torch.equal(edited[1].attention, uniform)
    torch.testing.assert_close(edited[1].context, edited[1].context[:, :1].expand_as(edited[1].context))
    assert not torch.equal(logits, run(model)[1])


def test_the_model_is_left_as_it_was(make_model):
    model = make_model(dropout=0.5)
    model.train()
    model.block[0].eval()
    with pytest.raises(ZeroDivisionError), recorded(model, {"embed": torch.zeros_like}):
        raise ZeroDivisionError
    assert model.training
    assert not model.block[0].training
    assert not any(tap._forward_hooks for tap in taps(model).values())


def test_gradients_reach_the_maps(make_model):
    with recorded(make_model()) as recorder:
        blocks = list(recorder.blocks(recorder.embed(images())))
        logits = recorder.classify(blocks[-1].residual_out)
    maps = blocks[0].softmax_maps
    assert maps is not None
    (gradient,) = torch.autograd.grad(logits.sum(), [maps])
    assert gradient.abs().sum() > 0


def test_an_unknown_site_is_refused(make_model):
    with (
        pytest.raises(UsageError, match=r"block\.9\.attn\.softmax"),
        recorded(make_model(), {"block.9.attn.softmax": torch.zeros_like}),
    ):
        pass
