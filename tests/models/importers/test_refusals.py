"""What cannot be imported is refused in one clear line, and nothing in a file is ever executed."""

import argparse
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch

from testbed.core.errors import TestbedError, UsageError
from testbed.models.importers import export_vit_pytorch, import_weights, save_vit_pytorch
from testbed.models.presets import preset
from testbed.models.vit import ViT
from testbed.models.weights import save_model
from tests.support.bomb import Bomb
from tests.support.weights import VIT_PYTORCH_SIZES


def model(**changes):
    torch.manual_seed(0)
    return ViT(preset("digits", **{**VIT_PYTORCH_SIZES, **changes})).eval()


@pytest.fixture
def state_dict():
    return export_vit_pytorch(model())


def refusal(tmp_path, content, error=TestbedError, **options):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return refused(path, error, **options)


def refused(path, error=TestbedError, **options):
    with pytest.raises(error) as raised:
        import_weights(path, **options)
    said = str(raised.value)
    assert "\n" not in said
    return said


def test_a_renamed_key_is_listed_under_both_names(tmp_path, state_dict):
    state_dict["transformer.layers.1.0.fn.to_kqv.weight"] = state_dict.pop("transformer.layers.1.0.fn.to_qkv.weight")
    said = refusal(tmp_path, state_dict)
    assert "missing 1: transformer.layers.1.0.fn.to_qkv.weight" in said
    assert "extra 1: transformer.layers.1.0.fn.to_kqv.weight" in said


@pytest.mark.parametrize("name", list(export_vit_pytorch(model())))
def test_whichever_key_is_renamed_it_is_named(tmp_path, state_dict, name):
    state_dict[f"{name}_"] = state_dict.pop(name)
    said = refusal(tmp_path, state_dict)
    assert name in said.replace(f"{name}_", "")
    assert f"{name}_" in said


@pytest.mark.parametrize("name", list(export_vit_pytorch(model())))
def test_a_misshapen_tensor_is_an_error(tmp_path, state_dict, name):
    state_dict[name] = torch.zeros(*state_dict[name].shape[:-1], state_dict[name].shape[-1] + 1)
    refusal(tmp_path, state_dict)


@pytest.mark.parametrize("name", list(export_vit_pytorch(model())))
def test_a_single_number_is_no_weight(tmp_path, state_dict, name):
    state_dict[name] = torch.zeros(())
    assert name in refusal(tmp_path, state_dict, (TestbedError, UsageError))


def test_misshapen_tensors_are_listed_with_both_shapes(tmp_path, state_dict):
    state_dict["transformer.layers.1.1.fn.net.3.weight"] = torch.zeros(12, 65)
    assert "net.3.weight 12x65 instead of 12x64" in refusal(tmp_path, state_dict)


@pytest.mark.parametrize("keep", [0, 1, 100, 2000, -1])
def test_truncated_files(tmp_path, state_dict, keep):
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        save_vit_pytorch(path, import_weights(written(tmp_path, state_dict)).model)
        path.write_bytes(path.read_bytes()[:keep])
        assert re.search("truncated or not a|is empty", refused(path))


def test_a_truncated_file_of_the_older_format(tmp_path, state_dict):
    path = tmp_path / "weights.pth"
    torch.save(state_dict, path, _use_new_zipfile_serialization=False)
    assert import_weights(path).layout == "vit-pytorch-old"
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated" in refused(path)


def written(tmp_path, content, name="whole.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle"])
def test_a_pickle_that_would_run_code_does_not(tmp_path, state_dict, how):
    path, trace = tmp_path / "weights.pth", tmp_path / "it-ran"
    content = {"model": state_dict, "args": Bomb(trace)}
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(content["args"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    said = refused(path)
    assert "would run code" in said
    assert "mkdir" in said
    assert not trace.exists()


def test_what_training_scripts_store_beside_the_weights_is_tolerated(tmp_path, state_dict):
    beside = {"best": np.float64(0.93), "args": argparse.Namespace(lr=0.1, seed=np.int64(3)), "epoch": 3}
    assert import_weights(written(tmp_path, {"model": state_dict, **beside})).config.classes == 10


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, {"model": "vit"}, torch.zeros(3)])
def test_files_without_a_state_dict(tmp_path, content):
    assert "state dict" in refusal(tmp_path, content)


def test_a_missing_file(tmp_path):
    assert "there is no file" in refused(tmp_path / "none.pth", UsageError)


def test_weights_of_something_else(tmp_path):
    said = refusal(tmp_path, {"conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)})
    assert "any known layout (vit-pytorch-old, vit-pytorch, vit-pytorch-simple, timm, torchvision, huggingface)" in said


def test_a_layout_asked_for(tmp_path, state_dict):
    path = written(tmp_path, state_dict)
    assert import_weights(path, "vit-pytorch-old").layout == "vit-pytorch-old"
    assert import_weights(path, "vit-pytorch").layout == "vit-pytorch-old"
    assert "do not follow the layout 'timm'" in refused(path, layout="timm")
    assert "unknown layout 'keras'; known: vit-pytorch-old" in refused(path, UsageError, layout="keras")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": 100}, "the weights are for 10 classes, not 100"),
        ({"image": 16}, "images of 8 pixels a side, not 16"),
        ({"heads": 5}, "128 wide, which 5 heads cannot share"),
        ({"heads": 0}, "0 heads cannot share"),
        ({"channels": 1}, "no square of 1 channels"),
        ({"patch": 3}, "no square of 3 or 1 channels"),
        ({"width": 13}, "width = 13 was stated, and the weights have 12"),
        ({"depth": 2}, "depth = 2 was stated, and the weights have 3"),
        ({"qkv_bias": True}, "qkv_bias = True was stated, and the weights have False"),
        ({"cls_token": False}, "cls_token = False was stated, and the weights have True"),
        ({"head": "mlp_head"}, "head = mlp_head is no linear layer with a bias"),
        ({"weights": "ema"}, "no set of weights 'ema'; its only weights have no name"),
    ],
)
def test_wrong_statements_about_the_weights(tmp_path, state_dict, options, said):
    path = written(tmp_path, state_dict)
    assert said in refused(path, UsageError, **options)
    assert str(path) in refused(path, UsageError, **options)


def test_right_statements_about_the_weights(tmp_path, state_dict):
    path = written(tmp_path, state_dict)
    usual = {row.key: row.value for row in import_weights(path).facts if row.source == "usual"}
    everything_else: dict[str, Any] = {"activation": "gelu", "norm_order": "pre", "eps": 1e-5, "pooling": "cls"}
    assert usual == {"channels": 3, "patch": 2, "image": 8, "heads": 2} | everything_else
    imported = import_weights(path, classes=10, image=8, heads=4, channels=3, patch=2)
    assert imported.config.heads == (4, 4, 4)
    assert imported.config.head_width == 32
    assert {row.key: row.value for row in imported.facts if row.source == "usual"} == everything_else
    assert [line.split()[0] for line in imported.assumed] == list(everything_else)
    assert not import_weights(path, classes=10, image=8, heads=4, channels=3, patch=2, **everything_else).assumed


def test_heads_are_asked_for_where_no_default_fits(tmp_path):
    path = written(tmp_path, export_vit_pytorch(model(head_width=6)))
    assert "state it with heads=N" in refused(path, UsageError)
    assert import_weights(path, heads=2).config == model(head_width=6).config.with_(dropout=0.0)


def test_double_precision_and_integers_are_refused(tmp_path, state_dict):
    said = refusal(tmp_path, {**state_dict, "mlp_head.1.bias": state_dict["mlp_head.1.bias"].double()})
    assert "mlp_head.1.bias (torch.float64)" in said


def test_images_that_are_not_square(tmp_path, state_dict):
    state_dict["pos_embedding"] = torch.zeros(1, 1 + 12, 12)
    assert "13 positions are not CLS and a square of patches" in refusal(tmp_path, state_dict)


def test_unequal_blocks_survive_the_round_trip(tmp_path):
    pruned = model(heads=(1, 2, 1), mlp=(3, 9, 5))
    back = import_weights(written(tmp_path, export_vit_pytorch(pruned))).model
    assert back.config == pruned.config
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(back(x), pruned(x))


def test_convolutional_patches_are_written_as_linear_ones(tmp_path):
    conv = model(patchify="conv")
    back = import_weights(written(tmp_path, export_vit_pytorch(conv))).model
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(back(x), conv(x))


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({"norm_order": "post"}, "post-norm blocks"),
        ({"attention": "differential"}, "differential attention"),
        ({"position": "sinusoidal"}, "position embedding 'sinusoidal'"),
        ({"proj_bias": False}, "no bias after attention"),
        ({"activation": "relu"}, "activation 'relu'"),
        ({"qkv_bias": True}, "a bias in q, k and v"),
        ({"final_norm": "none"}, "no final norm"),
        ({"heads": (2, 0, 2)}, "blocks without attention"),
        ({"norm_eps": 1e-6}, "LayerNorm epsilon 1e-06"),
    ],
)
def test_what_vit_pytorch_does_not_have_is_not_written(changes, feature):
    with pytest.raises(UsageError, match=feature):
        export_vit_pytorch(model(**changes))


def test_our_own_file_is_imported_as_it_is(tmp_path):
    original = model(attention="differential", norm_order="post")
    save_model(tmp_path / "m.safetensors", original)
    imported = import_weights(tmp_path / "m.safetensors")
    assert imported.layout == "testbed"
    assert imported.config == original.config
    assert "says its own architecture" in refused(tmp_path / "m.safetensors", UsageError, heads=2)
    assert "says its own architecture" in refused(tmp_path / "m.safetensors", UsageError, pooling="mean")
    assert import_weights(tmp_path / "m.safetensors", classes=10, image=8, channels=3).config == original.config
    assert "classes = 10, not 100" in refused(tmp_path / "m.safetensors", UsageError, classes=100)
