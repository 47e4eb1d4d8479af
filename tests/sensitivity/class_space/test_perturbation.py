"""Against masked softmax by hand, in NumPy, and against models that are given fewer tokens."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from testbed.core.errors import UsageError
from testbed.sensitivity.class_space.masks import patch_masks
from testbed.sensitivity.class_space.perturbation import DropTokens, NoCls, SelfOnly, measure_perturbations
from testbed.sensitivity.class_space.recorder import recorded
from testbed.sensitivity.class_space.stream import classify_kept, token_batches


def forward_by_hand(model, tokens, change):
    """Pre-norm blocks in float64; ``change`` is applied to each head's softmax (N, N)."""
    p = {name: value.detach().double().numpy() for name, value in model.named_parameters()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    x = tokens.double().numpy()
    for index in range(model.config.depth):
        name = f"block.{index}"
        y = norm(x, f"{name}.norm1")
        q, k, v = np.split(y @ p[f"{name}.attn.qkv.weight"].T, 3, axis=-1)
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            maps = softmax(q[..., part] @ k[..., part].swapaxes(1, 2) / 2, axis=-1)
            heads.append(change(maps) @ v[..., part])
        x = x + np.concatenate(heads, -1) @ p[f"{name}.attn.proj.weight"].T + p[f"{name}.attn.proj.bias"]
        hidden = norm(x, f"{name}.norm2") @ p[f"{name}.mlp.fc1.weight"].T + p[f"{name}.mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
        x = x + hidden @ p[f"{name}.mlp.fc2.weight"].T + p[f"{name}.mlp.fc2.bias"]
    return norm(x[:, 0], "norm") @ p["head.weight"].T + p["head.bias"]


def perturbed(model, batch, perturbation):
    with recorded(model, perturbation.edits(model, batch)) as recorder, torch.no_grad():
        tokens = recorder.embed(batch.images)
        last = recorder.run(tokens)
        kept = perturbation.kept(batch)
        logits = recorder.classify(last) if kept is None else classify_kept(model, last, kept)
        return tokens, logits


def cut_self_only(maps):
    changed = maps.copy()
    changed[:, 1:] = np.eye(maps.shape[-1])[1:]
    return changed


def cut_no_cls(maps):
    changed = maps.copy()
    changed[:, 1:, 0] = 0
    return changed


@pytest.mark.parametrize(("perturbation", "change"), [(SelfOnly(), cut_self_only), (NoCls(), cut_no_cls)])
def test_attention_perturbations_are_the_softmax_cut_by_hand(make_model, make_split, perturbation, change):
    model = make_model()
    (batch,) = token_batches(model, make_split())
    tokens, logits = perturbed(model, batch, perturbation)
    assert logits.numpy() == pytest.approx(forward_by_hand(model, tokens, change), abs=1e-4)
    assert logits.numpy() != pytest.approx(forward_by_hand(model, tokens, lambda maps: maps), abs=1e-4)


def test_self_only_of_differential_attention_reads_the_own_value_once(make_model, make_split):
    model = make_model(attention="differential")
    (batch,) = token_batches(model, make_split())
    with recorded(model, SelfOnly().edits(model, batch)) as recorder, torch.no_grad():
        states = next(recorder.blocks(recorder.embed(batch.images)))
    assert states.attention is not None
    assert torch.equal(states.attention[:, :, 1:], torch.eye(5)[1:].expand(12, 2, 4, 5))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "mean", "final_norm": "tokens"},
        {"pooling": "mean_patches"},
        {"pooling": "mean", "cls_token": False},
        {"attention": "differential"},
        {"norm_order": "post", "final_norm": "none"},
    ],
)
@pytest.mark.parametrize("kind", ["class", "context"])
def test_dropped_tokens_might_as_well_not_have_been_there(make_model, make_split, mask_folder, changes, kind):
    model, split = make_model(**changes), make_split()
    masks = patch_masks(str(mask_folder), model.config)
    (batch,) = token_batches(model, split, masks)
    tokens, logits = perturbed(model, batch, DropTokens(kind))
    for image in range(len(batch)):
        left = tokens[image : image + 1, ~batch.kinds[kind][image]]
        assert left.shape[1] == tokens.shape[1] - 2
        with recorded(model) as recorder, torch.no_grad():
            alone = recorder.classify(recorder.run(left))
        torch.testing.assert_close(alone, logits[image : image + 1], rtol=1e-4, atol=1e-5)


def test_masks_fall_on_the_patches_of_the_brighter_half(make_model, make_split, mask_folder):
    model, split = make_model(), make_split()
    (batch,) = token_batches(model, split, patch_masks(str(mask_folder), model.config))
    # patches of a 2 x 2 grid, row by row, behind CLS
    assert batch.kinds["class"][1].tolist() == [False, True, False, True, False]
    assert batch.kinds["class"][2].tolist() == [False, False, True, False, True]
    assert torch.equal(batch.kinds["class"] | batch.kinds["context"], batch.kinds["image"])


def test_effects_are_paired_with_the_model_as_it_is(make_model, make_split, mask_folder):
    model, split = make_model(), make_split(30)
    effects = measure_perturbations(model, split, masks=patch_masks(str(mask_folder), model.config))
    assert [effect.name for effect in effects] == ["none", "self_only", "no_cls", "no_context", "no_class"]
    for effect in effects:
        assert effect.accuracy.images == 30
        change = effect.accuracy_change
        assert change.value == pytest.approx(effect.accuracy.value - effects[0].accuracy.value)
        assert change.low <= change.value <= change.high
    dropped = {state.tokens: state for state in effects[-1].last_block}
    assert dropped["class"].rate.images == 0
    assert dropped["image"].rate.value == dropped["context"].rate.value


def test_an_image_without_tokens_does_not_count(make_model, make_split, mask_folder):
    from PIL import Image

    Image.fromarray(np.zeros((8, 8), np.uint8)).save(mask_folder / "halves" / "0003.png")
    for changes in ({}, {"pooling": "mean", "cls_token": False}):
        model = make_model(**changes)
        effects = measure_perturbations(
            model, make_split(), names=("no_context",), masks=patch_masks(str(mask_folder), model.config)
        )
        assert [effect.accuracy.images for effect in effects] == [12, 11]
        assert all(state.rate.images <= 11 for state in effects[1].last_block)


def test_what_the_model_or_the_masks_do_not_allow_is_refused(make_model, make_split, mask_folder):
    with pytest.raises(UsageError, match="no CLS token"):
        measure_perturbations(make_model(pooling="mean", cls_token=False), make_split(), names=("no_cls",))
    with pytest.raises(UsageError, match="--masks"):
        measure_perturbations(make_model(), make_split(), names=("no_class",))
    with pytest.raises(UsageError, match="no folder of masks"):
        patch_masks("nowhere", make_model().config)
    with pytest.raises(UsageError, match="is 8 x 8 pixels, the image 16 x 16"):
        measure_perturbations(
            make_model(), make_split(image=16), masks=patch_masks(str(mask_folder), make_model().config)
        )
    (mask_folder / "halves" / "0000.png").unlink()
    with pytest.raises(UsageError, match=r"halves/0000.*has no mask"):
        measure_perturbations(make_model(), make_split(), masks=patch_masks(str(mask_folder), make_model().config))
