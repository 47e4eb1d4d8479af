import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf, expit

from testbed.core.errors import UsageError
from testbed.models.config import uniform
from testbed.models.presets import preset
from testbed.models.vit import Attention, ViT, sinusoidal, taps

SMALL = {"image": 8, "patch": 2, "channels": 3, "width": 12, "classes": 5, "head_width": 4}
VARIANTS = [
    {},
    {"norm_order": "post", "final_norm": "none", "patchify": "conv", "qkv_bias": True},
    {"pooling": "mean", "final_norm": "tokens", "position": "2d", "attention": "differential"},
    {"pooling": "mean_patches", "position": "sinusoidal", "patch_norm": True},
    {"pooling": "mean", "cls_token": False, "position": "sincos_2d", "proj_bias": False},
    {"norm_order": "residual_post"},
    {"layer_scale": True, "gated_mlp": True, "activation": "silu", "qk_norm": True, "registers": 2},
    {"distillation": "head", "final_norm": "tokens", "embed_norm": True, "registers": 1},
    {"distillation": "token", "position_on": "patches", "patch_bias": False, "patchify": "conv"},
    {"pooling": "cls_and_mean", "final_norm": "none", "registers": 2},
    {"pooling": "mean", "cls_token": False, "position": "none", "patchify": "conv", "patch_norm": True},
]


def small(depth=2, heads=3, mlp=7, **changes):
    torch.manual_seed(0)
    return ViT(uniform(depth, heads, mlp, **{**SMALL, **changes})).eval()


def images(n=2, channels=3, size=8, seed=1):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def fired(model, x):
    """Site -> tensor, in the order of the forward pass."""
    seen: dict[str, torch.Tensor] = {}
    handles = [t.register_forward_hook(lambda m, _i, out: seen.setdefault(m.site, out)) for t in taps(model).values()]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("changes", VARIANTS)
def test_taps_are_the_sites_that_occur_in_the_order_they_occur(changes):
    model = small(**changes)
    assert list(taps(model)) == list(fired(model, images()))


@pytest.mark.parametrize("order", ["pre", "post"])
def test_taps_of_unequal_and_empty_blocks(order):
    model = ViT(preset("digits", heads=(1, 0, 3, 0), mlp=(5, 9, 0, 0), norm_order=order)).eval()
    blocks: Any = model.block
    assert list(taps(model)) == list(fired(model, images(channels=1)))
    assert blocks[0].attn.qkv.weight.shape == (3 * 16, 32)
    assert blocks[1].mlp.fc1.weight.shape == (9, 32)
    assert model(images(3, channels=1)).shape == (3, 10)


def test_an_empty_pre_norm_block_changes_nothing():
    model = ViT(preset("digits", heads=(0,), mlp=(0,)))
    x = torch.randn(2, 17, 32)
    assert torch.equal(model.block[0](x), x)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_pruned_branch_equals_one_that_gives_zeros(order):
    full = ViT(preset("digits", norm_order=order)).eval()
    block: Any = full.block[1]
    for branch in (block.attn.proj, block.mlp.fc2):
        torch.nn.init.zeros_(branch.weight)
        torch.nn.init.zeros_(branch.bias)
    pruned = ViT(preset("digits", norm_order=order, heads=(2, 0, 2), mlp=(64, 0, 64))).eval()
    weights = full.state_dict()
    pruned.load_state_dict({name: weights[name] for name in pruned.state_dict()})
    x = images(4, channels=1)
    torch.testing.assert_close(pruned(x), full(x))


def test_site_names_of_one_pre_norm_block():
    expected = ["patch_embed", "embed", "block.0.norm1"]
    expected += [f"block.0.attn.{t}" for t in ("q", "k", "v", "scores", "softmax", "context", "proj", "residual")]
    expected += ["block.0.norm2", *(f"block.0.mlp.{t}" for t in ("fc1", "gelu", "fc2", "residual")), "norm", "head"]
    assert list(taps(small(depth=1))) == expected


def test_shapes_of_the_tapped_tensors():
    shapes = {site: tuple(t.shape) for site, t in fired(small(depth=1), images()).items()}
    assert shapes["patch_embed"] == (2, 16, 12)
    assert shapes["embed"] == (2, 17, 12)
    assert shapes["block.0.attn.q"] == (2, 3, 17, 4)
    assert shapes["block.0.attn.scores"] == shapes["block.0.attn.softmax"] == (2, 3, 17, 17)
    assert shapes["block.0.attn.context"] == (2, 17, 12)
    assert shapes["block.0.mlp.gelu"] == (2, 17, 7)
    assert shapes["norm"] == (2, 12)
    assert shapes["head"] == (2, 5)


def layer_norm(x, norm):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + norm.eps) * array(norm.weight) + array(norm.bias)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def array(tensor):
    return tensor.detach().double().numpy()


def linear(x, layer):
    return x @ array(layer.weight).T + (array(layer.bias) if layer.bias is not None else 0)


def numpy_attention(x, attention, heads, width, differential):
    """Attention of one image, head by head, from the formula."""
    qkv = linear(x, attention.qkv)
    q, k, v = np.split(qkv, 3, axis=-1)
    contexts = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        qh, kh, vh = q[:, part], k[:, part], v[:, part]
        if differential:
            half = width // 2
            first = softmax(qh[:, :half] @ kh[:, :half].T / math.sqrt(half))
            second = softmax(qh[:, half:] @ kh[:, half:].T / math.sqrt(half))
            maps = first - float(attention.mix.detach()) * second
        else:
            maps = softmax(qh @ kh.T / math.sqrt(width))
        contexts.append(maps @ vh)
    return linear(np.concatenate(contexts, -1), attention.proj)


@pytest.mark.parametrize(("kind", "bias"), list(itertools.product(["softmax", "differential"], [False, True])))
def test_attention_is_the_formula(kind, bias):
    torch.manual_seed(3)
    config = preset("digits", heads=(1, 3), mlp=(1, 1), head_width=6, attention=kind, qkv_bias=bias)
    attention = Attention(config, 1).eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        got = attention(x).numpy()
    for image in range(2):
        want = numpy_attention(array(x[image]), attention, 3, 6, kind == "differential")
        np.testing.assert_allclose(got[image], want, atol=1e-5)


def test_the_whole_post_norm_model_is_its_formula():
    model = small(norm_order="post", final_norm="none", patchify="conv", qkv_bias=True, init="normal")
    x = images(1)
    kernel = array(model.patch_embed.proj.weight)
    tokens = [array(model.cls_token)[0, 0]]
    for row, column in itertools.product(range(4), range(4)):
        patch = array(x)[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        tokens.append((kernel * patch).sum((1, 2, 3)) + array(model.patch_embed.proj.bias))
    stream = np.stack(tokens) + array(model.pos_embed)[0]
    for block in model.block:
        stream = layer_norm(stream + numpy_attention(stream, block.attn, 3, 4, False), block.norm1)
        stream = layer_norm(stream + linear(gelu(linear(stream, block.mlp.fc1)), block.mlp.fc2), block.norm2)
    with torch.no_grad():
        np.testing.assert_allclose(model(x)[0].numpy(), linear(stream[0], model.head), atol=1e-5)


def test_the_lambda_of_differential_attention_starts_as_published():
    model = small(depth=3, attention="differential")
    assert [round(float(block.attn.mix.detach()), 4) for block in model.block] == [0.2, 0.3555, 0.4707]


def test_linear_and_convolution_patches_agree():
    linear_model, conv_model = small(), small(patchify="conv")
    weights = linear_model.state_dict()
    flat = weights["patch_embed.proj.weight"]
    weights["patch_embed.proj.weight"] = flat.reshape(12, 2, 2, 3).permute(0, 3, 1, 2)
    conv_model.load_state_dict(weights)
    torch.testing.assert_close(linear_model(images()), conv_model(images()))


def embedding_of_position(model):
    with torch.no_grad():
        for p in model.patch_embed.parameters():
            p.zero_()
        if model.config.cls_token:
            model.cls_token.zero_()
        return model.embedded(images(1))[0]


def test_factorised_positions_are_row_plus_column_and_leave_cls_alone():
    model = small(position="2d")
    table = embedding_of_position(model)
    assert torch.equal(table[0], torch.zeros(12))
    for row, column in itertools.product(range(4), range(4)):
        want = model.pos_row[0, row, 0] + model.pos_column[0, 0, column]
        torch.testing.assert_close(table[1 + 4 * row + column], want)


def test_no_position_means_none():
    assert torch.count_nonzero(embedding_of_position(small(position="none"))) == 0


def test_sinusoidal_positions_are_the_formula_and_not_learned():
    table = sinusoidal(9, 6)
    for position, pair in itertools.product(range(9), range(3)):
        angle = position / 10_000 ** (2 * pair / 6)
        assert float(table[position, 2 * pair]) == pytest.approx(math.sin(angle), abs=1e-6)
        assert float(table[position, 2 * pair + 1]) == pytest.approx(math.cos(angle), abs=1e-6)
    model = small(position="sinusoidal")
    torch.testing.assert_close(embedding_of_position(model), sinusoidal(17, 12))
    assert not [name for name in model.state_dict() if name.startswith("pos")]


@pytest.mark.parametrize(
    ("pooling", "first"), [("mean", 0), ("mean_patches", 1)], ids=["mean counts CLS", "mean_patches leaves it out"]
)
def test_mean_pooling(pooling, first):
    model = small(pooling=pooling, final_norm="none")
    x = torch.randn(2, 17, 12)
    with torch.no_grad():
        torch.testing.assert_close(model.classified(x), model.head(x[:, first:].mean(1)))


def test_where_the_final_norm_sits():
    x = torch.randn(2, 17, 12)
    on_tokens, on_pooled = small(pooling="mean", final_norm="tokens"), small(pooling="mean", final_norm="pooled")
    norm = torch.nn.LayerNorm(12)
    with torch.no_grad():
        torch.testing.assert_close(on_tokens.classified(x), on_tokens.head(norm(x).mean(1)))
        torch.testing.assert_close(on_pooled.classified(x), on_pooled.head(norm(x.mean(1))))


@pytest.mark.parametrize(("init", "std"), [("zero", 0.0), ("trunc", 0.02), ("normal", 1.0)])
def test_how_cls_and_positions_start(init, std):
    model = ViT(preset("cifar10", init=init, heads=(1,), mlp=(1,)))
    assert float(model.pos_embed.detach().std()) == pytest.approx(std, rel=0.1)


FORMULAS = {
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "quick_gelu": lambda x: x * expit(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * expit(x),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_their_formulas(name):
    model = small(activation=name)
    seen = fired(model, images() * 3)
    before, after = (seen[f"block.0.mlp.{site}"].double().numpy() for site in ("fc1", "gelu"))
    np.testing.assert_allclose(after, FORMULAS[name](before), atol=1e-6)
    others = [formula(before) for other, formula in FORMULAS.items() if other != name]
    assert all(np.abs(after - other).max() > 1e-5 for other in others)


def test_dropout_acts_in_training_only():
    model = small(dropout=0.5, embed_dropout=0.5)
    assert torch.equal(model(images()), model(images()))
    model.train()
    assert not torch.equal(model(images()), model(images()))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 8, 8), (3, 8, 8)])
def test_images_of_another_size_are_refused_rather_than_cut_up(shape):
    with pytest.raises(UsageError, match=r"takes images \('B', 3, 8, 8\)"):
        small()(torch.zeros(shape))


@pytest.mark.parametrize("changes", VARIANTS)
def test_parameters_have_one_consumer_each(changes):
    model = small(**changes)
    uses = readers_of_leaves(model(images()).grad_fn)
    assert {name: uses.get(id(p), 0) for name, p in model.named_parameters()} == dict.fromkeys(model.state_dict(), 1)


def readers_of_leaves(root):
    """id of a parameter -> number of nodes of the autograd graph that read it."""
    counts: dict[int, int] = {}
    seen, queue = set(), [root]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if hasattr(following, "variable"):
                counts[id(following.variable)] = counts.get(id(following.variable), 0) + 1
            queue.append(following)
    return counts
