"""Imported weights give the source library's logits; the libraries are the oracle, with random weights."""

import json
import re

import pytest
import safetensors.torch
import torch

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.models.importers import export_vit_pytorch, import_weights, save_vit_pytorch
from tests.support.exporters import randomised
from tests.support.weights import images, saved

SIZES = {"image_size": 8, "patch_size": 2, "num_classes": 5}


def assert_same_logits(path, library, x, layout, **options):
    imported = import_weights(path, **options)
    assert imported.layout == layout
    assert not imported.model.training
    with torch.no_grad():
        want = library(x)
        want = getattr(want, "logits", want)
        torch.testing.assert_close(imported.model(x), want, atol=1e-5, rtol=1e-5)
    return imported


def vit_pytorch(**changes):
    library = pytest.importorskip("vit_pytorch")
    sizes = {"dim": 12, "depth": 2, "heads": 3, "dim_head": 64, "mlp_dim": 7, **SIZES}
    return randomised(library.ViT(**{**sizes, **changes}))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vit_pytorch(tmp_path, pool):
    library = vit_pytorch(pool=pool)
    imported = assert_same_logits(saved(tmp_path, library.state_dict()), library, images(), "vit-pytorch")
    assert imported.config.heads == (3, 3)
    assert imported.config.cls_token is (pool == "cls")


def test_vit_pytorch_with_other_heads_and_one_channel(tmp_path):
    library = vit_pytorch(heads=2, dim_head=6, channels=1)
    path = saved(tmp_path, library.state_dict())
    assert_same_logits(path, library, images(channels=1), "vit-pytorch", heads=2)


OLD_NAMES = [
    (r"to_patch_embedding\.2\.", "to_patch_embedding.1."),
    (r"\.0\.(to_qkv|to_out)", r".0.fn.\1"),
    (r"\.1\.net\.0\.", ".1.norm."),
    (r"\.1\.net\.1\.", ".1.fn.net.0."),
    (r"\.1\.net\.4\.", ".1.fn.net.3."),
    (r"^mlp_head\.", "mlp_head.1."),
    (r"^transformer\.norm\.", "mlp_head.0."),
]


def old_vit_pytorch():
    """The older model from the current one: no norms around the patches, the last norm on CLS alone."""
    library = vit_pytorch()
    library.to_patch_embedding[1] = library.to_patch_embedding[3] = torch.nn.Identity()
    old = {}
    for name, tensor in library.state_dict().items():
        for pattern, replacement in OLD_NAMES:
            name = re.sub(pattern, replacement, name)
        old[name] = tensor[None] if name in ("cls_token", "pos_embedding") else tensor
    if old["cls_token"].dim() == 2:
        old["cls_token"] = old["cls_token"][None]
    return library, old


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_older_vit_pytorch_however_it_was_saved(tmp_path, wrapper, prefix):
    library, old = old_vit_pytorch()
    content = {prefix + name: tensor for name, tensor in old.items()}
    if wrapper:
        content = {"epoch": 5, "accuracy": 0.5, wrapper: content, "optimizer": {"param_groups": [{"lr": 0.1}]}}
    assert_same_logits(saved(tmp_path, content), library, images(), "vit-pytorch-old")


def test_safetensors(tmp_path):
    library, old = old_vit_pytorch()
    safetensors.torch.save_file({name: t.contiguous() for name, t in old.items()}, tmp_path / "w.safetensors")
    assert_same_logits(tmp_path / "w.safetensors", library, images(), "vit-pytorch-old")


def test_mean_pooling_is_stated_where_names_do_not_tell(tmp_path):
    library, old = old_vit_pytorch()
    library.pool = "mean"  # the older library averages the tokens, CLS included, and then normalises
    norm, library.transformer.norm = library.transformer.norm, torch.nn.Identity()
    library.to_latent = norm
    assert_same_logits(saved(tmp_path, old), library, images(), "vit-pytorch-old", pooling="mean")


def test_half_precision_is_widened_exactly(tmp_path):
    _, old = old_vit_pytorch()
    imported = import_weights(saved(tmp_path, {name: t.half() for name, t in old.items()})).model
    assert torch.equal(imported.head.weight, old["mlp_head.1.weight"].half().float())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_older_layout_is_written_back_bit_for_bit(tmp_path, suffix):
    _, old = old_vit_pytorch()
    path = saved(tmp_path, old)
    model = import_weights(path).model
    written = export_vit_pytorch(model)
    assert written.keys() == old.keys()
    assert all(torch.equal(written[name], old[name]) for name in old)
    save_vit_pytorch(tmp_path / f"back{suffix}", model)
    back = import_weights(tmp_path / f"back{suffix}").model
    assert back.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_current_layout_is_written_back_as_the_library_loads_it(tmp_path, pool):
    library = vit_pytorch(pool=pool)
    state_dict = library.state_dict()
    written = export_vit_pytorch(import_weights(saved(tmp_path, state_dict)).model)
    assert {name for name, t in state_dict.items() if t.numel()} == written.keys()
    assert all(torch.equal(written[name], state_dict[name]) for name in written)


def timm_vit(**changes):
    module = pytest.importorskip("timm.models.vision_transformer")
    sizes = {
        "img_size": 8,
        "patch_size": 2,
        "num_classes": 5,
        "embed_dim": 192,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 1,
    }
    return randomised(module.VisionTransformer(**{**sizes, **changes}))


@pytest.mark.parametrize(
    "changes",
    [{}, {"global_pool": "avg"}, {"global_pool": "avg", "class_token": False}, {"qkv_bias": False}],
    ids=["CLS", "mean of patches", "no CLS", "no qkv bias"],
)
def test_timm(tmp_path, changes):
    library = timm_vit(**changes)
    imported = assert_same_logits(saved(tmp_path, library.state_dict()), library, images(), "timm")
    assert imported.config.heads == (3, 3)
    assert imported.config.norm_eps == 1e-6


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({"scale_mlp_norm": True}, "inside attention or MLP"),
        ({"global_pool": "map", "num_heads": 3}, "attention pooling"),
    ],
)
def test_timm_features_that_are_missing_here_are_named(tmp_path, changes, feature):
    path = saved(tmp_path, timm_vit(**changes).state_dict())
    with pytest.raises(Exception, match=feature) as error:
        import_weights(path)
    assert "\n" not in str(error.value)


def test_torchvision(tmp_path):
    from torchvision.models import VisionTransformer

    sizes = {"hidden_dim": 192, "num_layers": 2, "num_heads": 3, "mlp_dim": 11}
    library = randomised(VisionTransformer(**SIZES, **sizes))
    state_dict = library.state_dict()
    assert_same_logits(saved(tmp_path, state_dict), library, images(), "torchvision")
    older = {n.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): t for n, t in state_dict.items()}
    assert_same_logits(saved(tmp_path, older), library, images(), "torchvision")


def huggingface(**changes):
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 7}
    config = library.ViTConfig(image_size=8, patch_size=2, num_labels=5, **{**sizes, **changes})
    return randomised(library.ViTForImageClassification(config))


def test_huggingface_folder(tmp_path):
    library = huggingface(num_attention_heads=8, layer_norm_eps=0.05)
    library.save_pretrained(tmp_path)
    imported = assert_same_logits(tmp_path / "model.safetensors", library, images(), "huggingface")
    assert imported.config.heads == (8, 8)
    assert imported.config.norm_eps == 0.05


@pytest.mark.parametrize("prefix", [True, False])
def test_huggingface_state_dict(tmp_path, prefix):
    library = huggingface()
    state_dict = {n if prefix else n.removeprefix("vit."): t for n, t in library.state_dict().items()}
    assert_same_logits(saved(tmp_path, state_dict), library, images(), "huggingface")


def test_huggingface_without_its_head_is_not_a_classifier(tmp_path):
    path = saved(tmp_path, huggingface().vit.state_dict())
    with pytest.raises(Exception, match="no classification head"):
        import_weights(path)


def test_a_huggingface_config_of_another_model_is_refused(tmp_path):
    huggingface().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    original = json.loads(config.read_text())
    for change, said in (
        ({"hidden_size": 384}, "describes width 384"),
        ({"hidden_act": "mish"}, "activation = 'mish'"),
    ):
        config.write_text(json.dumps(original | change))
        with pytest.raises(Exception, match=said):
            import_weights(tmp_path / "model.safetensors")
    config.write_text("{")
    with pytest.raises(Exception, match="damaged"):
        import_weights(tmp_path / "model.safetensors")
