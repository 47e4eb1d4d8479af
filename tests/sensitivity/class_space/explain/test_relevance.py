"""Relevance against what the definitions give by hand: finite differences, a two-block product, NumPy propagation."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from testbed.core.errors import UsageError
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.explain import attnlrp
from testbed.sensitivity.class_space.explain.attnlrp import attnlrp_relevance, images_at_once, token_relevance
from testbed.sensitivity.class_space.explain.relevance import (
    attention_rollout,
    explainers,
    projection_gradient,
)
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.recorder import recorded
from testbed.sensitivity.rollout import query_weights
from tests.support.held_memory import graph_memory
from tests.support.site_tensors import site_tensors

CLASSES = torch.tensor([2, 0, 1])
POOLINGS = [{}, {"pooling": "mean"}, {"pooling": "mean_patches"}, {"pooling": "mean", "cls_token": False}]


def images():
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("changes", POOLINGS)
def test_rollout_of_two_blocks_is_their_product(make_model, changes):
    model = make_model(**changes)
    seen = site_tensors(model, images())
    tokens = model.config.tokens

    def mixed(block):
        average = seen[f"block.{block}.attn.softmax"].astype(np.float64).mean(1) + np.eye(tokens)
        return average / average.sum(-1, keepdims=True)

    rolled = mixed(1) @ mixed(0)
    first = int(model.config.cls_token)
    queries = slice(0, 1) if model.config.pooling == "cls" else slice(first * (model.config.pooling != "mean"), None)
    wanted = rolled[:, queries].mean(1)[:, first:]
    assert attention_rollout(model, images()).numpy() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("changes", [*POOLINGS, {"attention": "differential"}])
def test_projection_gradient_is_the_finite_difference(make_model, changes):
    """Of each block's class logit, as one attention weight of all heads and queries rises."""
    model = make_model(**changes).double()
    inputs = images().double()
    config = model.config
    query, projection = query_weights(config).double(), ClassProjection.of(model)
    first = int(config.cls_token)

    def logit(block, token, step):
        def nudged(maps):
            changed = maps.clone()
            changed[:, :2, :, token] += step  # of differential attention, its first maps
            return changed

        with recorded(model, {f"block.{block}.attn.softmax": nudged}) as recorder, torch.no_grad():
            states = list(recorder.blocks(recorder.embed(inputs)))[block]
            pooled = torch.einsum("n,bnd->bd", query, states.attention_out)
            return projection(pooled).gather(1, CLASSES[:, None])[:, 0]

    wanted = torch.zeros(3, config.tokens, dtype=torch.float64)
    for block in range(2):
        for token in range(config.tokens):
            wanted[:, token] += (logit(block, token, 1e-5) - logit(block, token, -1e-5)) / 2e-5
    measured = projection_gradient(model, inputs, CLASSES).double()
    torch.testing.assert_close(measured, wanted[:, first:], rtol=1e-4, atol=1e-5)


def relevance_by_hand(model, tokens, label):
    """AttnLRP's rules written out for one image and one pre-norm block, from the output back; no epsilon."""
    p = {name: value.detach().numpy() for name, value in model.named_parameters()}

    def normed(x, name):
        scale = p[f"{name}.weight"] / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return (x - x.mean(-1, keepdims=True)) * scale + p[f"{name}.bias"], scale

    def through_linear(x, weight, relevance, output):
        """x (N, I), weight (O, I), relevance and output (N, O): shares in proportion to x_i w_oi."""
        return x * ((relevance / output) @ weight)

    def through_norm(x, scale, relevance, output):
        """The deviation is constant: a linear map of x, its mean taken off."""
        rate = relevance / output * scale
        return x * (rate - rate.mean(-1, keepdims=True))

    x0 = tokens
    y, scale1 = normed(x0, "block.0.norm1")
    qkv = y @ p["block.0.attn.qkv.weight"].T
    q, k, v = np.split(qkv, 3, axis=-1)
    heads, width = 2, 4
    maps, scores, context = [], [], []
    for head in range(heads):
        part = slice(width * head, width * head + width)
        scores.append(q[:, part] @ k[:, part].T / math.sqrt(width))
        maps.append(softmax(scores[-1], axis=-1))
        context.append(maps[-1] @ v[:, part])
    joined = np.concatenate(context, -1)
    attention = joined @ p["block.0.attn.proj.weight"].T + p["block.0.attn.proj.bias"]
    x1 = x0 + attention
    z, scale2 = normed(x1, "block.0.norm2")
    pre = z @ p["block.0.mlp.fc1.weight"].T + p["block.0.mlp.fc1.bias"]
    hidden = pre * 0.5 * (1 + erf(pre / math.sqrt(2)))
    mlp = hidden @ p["block.0.mlp.fc2.weight"].T + p["block.0.mlp.fc2.bias"]
    x2 = x1 + mlp
    last, scale3 = normed(x2[:1], "norm")
    logits = last @ p["head.weight"].T + p["head.bias"]

    start = np.zeros_like(logits)
    start[0, label] = logits[0, label]
    r_last = through_linear(last, p["head.weight"], start, logits)
    r2 = np.zeros_like(x2)
    r2[:1] = through_norm(x2[:1], scale3, r_last, last)
    r1, r_mlp = r2 * x1 / x2, r2 * mlp / x2  # a sum: in proportion
    r_hidden = through_linear(hidden, p["block.0.mlp.fc2.weight"], r_mlp, mlp)
    r_z = through_linear(z, p["block.0.mlp.fc1.weight"], r_hidden, pre)  # an activation passes it on as it is
    r1 = r1 + through_norm(x1, scale2, r_z, z)
    r0, r_attention = r1 * x0 / x1, r1 * attention / x1
    r_context = through_linear(joined, p["block.0.attn.proj.weight"], r_attention, attention)
    r_qkv = np.zeros_like(qkv)
    inner = heads * width
    for head in range(heads):
        part = slice(width * head, width * head + width)
        ratio = r_context[:, part] / context[head]
        r_maps = maps[head] * (ratio @ v[:, part].T) / 2  # half to the maps, half to the values
        r_qkv[:, 2 * inner + part.start : 2 * inner + part.stop] = v[:, part] * (maps[head].T @ ratio) / 2
        r_scores = scores[head] * (r_maps - maps[head] * r_maps.sum(-1, keepdims=True))
        ratio = r_scores / scores[head] / math.sqrt(width)
        r_qkv[:, part] = q[:, part] * (ratio @ k[:, part]) / 2
        r_qkv[:, inner + part.start : inner + part.stop] = k[:, part] * (ratio.T @ q[:, part]) / 2
    r_y = through_linear(y, p["block.0.attn.qkv.weight"], r_qkv, qkv)
    return (r0 + through_norm(x0, scale1, r_y, y)).sum(-1)


def test_attnlrp_is_the_propagation_by_hand(make_model):
    model = make_model(depth=1).double()
    inputs = images().double()
    relevance = token_relevance(model, inputs, CLASSES)
    with torch.no_grad():
        tokens = model.embedded(inputs).numpy()
    for image, label in enumerate(CLASSES.tolist()):
        assert relevance[image].numpy() == pytest.approx(relevance_by_hand(model, tokens[image], label), rel=1e-6)
    assert torch.equal(attnlrp_relevance(model, inputs, CLASSES), relevance[:, 1:])


def test_attnlrp_of_a_few_images_at_a_time_is_the_same(make_model, monkeypatch):
    model = make_model().double()
    at_once = attnlrp_relevance(model, images().double(), CLASSES)
    monkeypatch.setattr(attnlrp, "GRAPH_BYTES", 1)
    assert images_at_once(model.config) == 1
    torch.testing.assert_close(attnlrp_relevance(model, images().double(), CLASSES), at_once)


def many_tokens(make_model, **changes):
    """A model whose weights are small beside its states, with 12 images."""
    model = make_model(image=24, patch=2, **changes)
    return (
        model,
        torch.randn(12, 1, 24, 24, generator=torch.Generator().manual_seed(1)),
        torch.zeros(12, dtype=torch.long),
    )


def test_attnlrp_keeps_graphs_within_their_bound(make_model, monkeypatch):
    model, inputs, classes = many_tokens(make_model, mlp=256, width=64, head_width=32)
    with graph_memory() as whole:
        attnlrp_relevance(model, inputs, classes)
    monkeypatch.setattr(attnlrp, "GRAPH_BYTES", whole.most // 3)
    with graph_memory() as bounded:
        attnlrp_relevance(model, inputs, classes)
    assert images_at_once(model.config) > 1
    assert bounded.most <= attnlrp.GRAPH_BYTES


def test_projection_gradient_keeps_the_graph_of_one_block(make_model):
    most = []
    for depth in (2, 6):
        model, inputs, classes = many_tokens(make_model, depth=depth)
        with graph_memory() as memory:
            projection_gradient(model, inputs, classes)
        most.append(memory.most)
    assert most[1] < 1.1 * most[0]


def test_attnlrp_conserves_the_logit_where_nothing_takes_a_part(make_model):
    """Without biases, and with keys of zero (a softmax that is constant), every linear map hands on all it was given; the
    maps' half of the product ends there."""
    model = make_model(depth=1, attention="softmax").double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        model.block[0].attn.proj.weight.zero_()
    relevance = token_relevance(model, images().double(), CLASSES)
    logits = model(images().double()).gather(1, CLASSES[:, None])[:, 0]
    torch.testing.assert_close(relevance.sum(-1), logits.detach())


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "differential"},
        {"norm_order": "post"},
        {"norm_order": "residual_post"},
        {"layer_scale": True, "gated_mlp": True, "activation": "silu", "qk_norm": True, "registers": 2},
    ],
)
def test_every_method_explains_every_kind_of_model(make_model, changes):
    model = make_model(**changes)
    for method, explain in explainers().items():
        relevance = explain(model, images(), CLASSES)
        assert relevance.shape == (3, 4), method
        assert relevance.isfinite().all(), method
        assert not relevance.requires_grad, method


def test_a_token_that_nothing_reads_has_no_relevance(make_model):
    """Values of zero: attention carries nothing, and CLS alone is pooled."""
    model = make_model()
    with torch.no_grad():
        for block in model.block:
            block.attn.qkv.weight[16:] = 0
    assert attnlrp_relevance(model, images(), CLASSES).abs().max() == 0


def test_a_model_without_attention_is_refused(make_model):
    model = ViT(make_model().config.with_(heads=(0, 0)))
    for explain in (explainers()["rollout"], explainers()["projection_gradient"]):
        with pytest.raises(UsageError, match="no attention"):
            explain(model, images(), CLASSES)
