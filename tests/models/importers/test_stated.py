"""What weights do not tell: stated, or told as usual; the libraries' own models are the oracle."""

from typing import Any

import pytest
import torch

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.core.errors import GateFailed, TestbedError, UsageError
from testbed.models.importers import STATED_KEYS, check_against_library, import_weights, settings
from testbed.models.importers.facts.stated import StatedFacts
from tests.support.weights import difference, images, lively, saved, stated_facts, timm_vit, torchvision_vit


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"])
def test_an_activation_that_is_stated(tmp_path, name):
    library = timm_vit(act_layer=name)
    path = saved(tmp_path, library.state_dict())
    imported = import_weights(path, heads=3, activation=name)
    assert difference(imported, library) < 1e-5
    assert stated_facts(imported)["activation"] == (name, "stated")
    usual = import_weights(path, heads=3)
    assert stated_facts(usual)["activation"] == ("gelu", "usual")
    assert (difference(usual, library) < 1e-5) == (name == "gelu")  # what the row warns of


@pytest.mark.parametrize(
    ("changes", "stated"),
    [
        ({"num_heads": 6}, {"heads": 6}),
        ({"global_pool": "avg", "fc_norm": False}, {"pooling": "mean_patches"}),
        ({"global_pool": "avg", "pool_include_prefix": True}, {"pooling": "mean"}),
        ({"norm_layer": "layernorm"}, {"eps": 1e-6}),
    ],
)
def test_other_things_that_are_stated(tmp_path, changes, stated):
    library = timm_vit(**changes)
    path = saved(tmp_path, library.state_dict())
    imported = import_weights(path, **({"heads": 3} | stated))
    assert difference(imported, library) < 1e-5
    assert all(stated_facts(imported)[key] == (value, "stated") for key, value in stated.items())


def test_an_epsilon_that_is_stated(tmp_path):
    module = pytest.importorskip("timm.layers")
    library = timm_vit(norm_layer=lambda width, **kw: module.LayerNorm(width, eps=0.02))
    path = saved(tmp_path, library.state_dict())
    assert difference(import_weights(path, heads=3, eps="0.02"), library) < 1e-5
    assert difference(import_weights(path, heads=3), library) > 1e-3


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
def test_channels_of_a_linear_patch_projection(tmp_path, channels):
    library = pytest.importorskip("vit_pytorch")
    sizes = {"image_size": 16, "patch_size": 4, "num_classes": 5, "dim": 12, "depth": 1, "heads": 2, "mlp_dim": 7}
    model = lively(library.ViT(**sizes, channels=channels))
    path = saved(tmp_path, model.state_dict())
    assert difference(import_weights(path, channels=channels), model, images(channels, 16)) < 1e-5
    assert difference(import_weights(path, patch=4), model, images(channels, 16)) < 1e-5
    if channels == 3:
        assert stated_facts(import_weights(path))["channels"] == (3, "usual")
    elif channels != 12:  # 12 channels of 4 x 4 are as many as 3 of 8 x 8, which is usual and told so
        with pytest.raises(UsageError, match=r"of 4 x 4.*state it: --set channels=N"):
            import_weights(path)
    assert stated_facts(import_weights(path, data_set={"channels": channels}))["channels"] == (channels, "data set")


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"activation": "mish"}, "activation = 'mish' is not one of gelu, .* onnx = FILE"),
        ({"norm_order": "sandwich"}, "norm_order = 'sandwich' is not one of pre, post, residual_post"),
        ({"pooling": "max"}, "pooling 'max': not supported; export it to ONNX"),
        ({"image": "8x32"}, r"images that are not square \(8x32\): not supported"),
        ({"patch": [2, 4]}, "patches that are not square"),
        ({"image": 16}, "images of 8 pixels a side, not 16"),
        ({"eps": "x"}, "eps must be a number"),
        ({"heads": "many"}, "heads must be a whole number"),
        ({"qkv_bias": "perhaps"}, "qkv_bias must be true or false"),
        ({"qkv_bias": "no"}, "qkv_bias = False was stated, and the weights have True"),
        ({"activaton": "relu"}, r"unknown key 'activaton'; did you mean 'activation'\? Known: weights, head"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, stated, said):
    path = saved(tmp_path, timm_vit().state_dict())
    with pytest.raises(UsageError, match=said) as raised:
        import_weights(path, **({"heads": 3} | stated))
    assert "\n" not in str(raised.value)


def test_settings_are_key_and_value():
    assert settings(["eps=1e-6", "act_layer=relu", "eps=1e-6"]) == {"eps": "1e-6", "activation": "relu"}
    for texts, said in (
        (["eps"], "write KEY=VALUE"),
        (["eps="], "write KEY"),
        (["eps=1", "norm_eps=2"], "stated twice"),
    ):
        with pytest.raises(UsageError, match=said):
            settings(texts)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_layer": "rmsnorm"}, "norms without bias"),
        ({"proj_bias": False}, "linear maps without bias"),
        ({"final_norm": False}, "no LayerNorm after the blocks"),
        ({"block_fn": "ParallelThingsBlock"}, "parallel blocks"),
        ({"attn_layer": "diff"}, "differential attention"),
        ({"pos_embed": "none"}, "without a position table"),
        ({"patch_size": (2, 4)}, "patches of 2 x 4 pixels are not square"),
        ({"img_size": (4, 16)}, (8, "16 patches tell no shape")),
        ({"img_size": (4, 8)}, (6, "9 patches tell no shape; the tokens before them have no position")),
        ({"img_size": (4, 6)}, "images that are not square"),
    ],
)
def test_timm_features_say_their_name_and_what_to_do(tmp_path, changes, said):
    module = pytest.importorskip("timm.models.vision_transformer")
    classes = {"ParallelThingsBlock": module.ParallelThingsBlock}
    changes = {key: classes.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    path = saved(tmp_path, timm_vit(**changes).state_dict())
    if isinstance(said, tuple):  # as many patches as a square: told as an assumption
        row = next(row for row in import_weights(path, heads=3).facts if row.key == "image")
        assert (row.value, row.source) == (said[0], "usual")
        assert said[1] in row.note
        return
    with pytest.raises(TestbedError, match=said) as raised:
        import_weights(path, heads=3)
    assert "\n" not in str(raised.value)
    assert "[model] onnx = FILE" in str(raised.value) or "size of the images is unknown" in str(raised.value)


def test_simple_vit_asks_for_the_size_of_its_images(tmp_path):
    library = pytest.importorskip("vit_pytorch")
    sizes = {"patch_size": 2, "num_classes": 5, "dim": 12, "depth": 1, "heads": 2, "mlp_dim": 7}
    model = lively(library.SimpleViT(image_size=8, **sizes))
    path = saved(tmp_path, model.state_dict())
    with pytest.raises(UsageError, match="do not tell the size of the images; state it: --set image=N"):
        import_weights(path)
    with pytest.raises(UsageError, match="no multiple of the patches' 2 pixels"):
        import_weights(path, image=7)
    imported = import_weights(path, image=8)
    assert imported.layout == "vit-pytorch-simple"
    assert difference(imported, model) < 1e-5
    assert stated_facts(imported)["image"] == (8, "stated")
    assert stated_facts(imported)["position"] == ("sincos_2d", "usual")
    assert not any(name.endswith("attn.proj.bias") for name, _ in imported.model.named_parameters())
    assert check_against_library(imported).max_abs_difference < 1e-5
    larger = lively(library.SimpleViT(image_size=12, **sizes))  # the same weights fit images of any size
    assert difference(import_weights(saved(tmp_path, larger.state_dict()), image=12), larger, images(size=12)) < 1e-5


def test_batch_norm_says_its_name(tmp_path):
    pytest.importorskip("torchvision")
    from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

    stem = [ConvStemConfig(4, 3, 2), ConvStemConfig(8, 3, 2)]
    small = {"image_size": 8, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 7}
    with pytest.raises(TestbedError, match="convolutional stem with BatchNorm"):
        import_weights(saved(tmp_path, VisionTransformer(**small, conv_stem_configs=stem).state_dict()))


def test_the_check_of_each_library(tmp_path):
    vit_pytorch = pytest.importorskip("vit_pytorch")
    sizes = {"image_size": 8, "patch_size": 2, "num_classes": 5, "dim": 12, "depth": 1, "heads": 2, "mlp_dim": 7}
    models = {
        "timm": timm_vit(qkv_bias=False, class_token=False, global_pool="avg"),
        "torchvision": lively(torchvision_vit()),
        "vit-pytorch": lively(vit_pytorch.ViT(**sizes, pool="mean")),
    }
    for name, library in models.items():
        imported = import_weights(saved(tmp_path, library.state_dict()), heads=2 if name == "vit-pytorch" else 3)
        check = check_against_library(imported)
        check.raise_if_failed()
        assert (check.library, check.images) == (name, 8)
        assert check.max_abs_difference < 1e-5 < check.max_abs_logit
        assert "activation" in check.same_assumptions
        last: Any = imported.model.block[-1].mlp
        last.fc2.bias = torch.nn.Parameter(last.fc2.bias + torch.linspace(0, 0.1, len(last.fc2.bias)))
        with pytest.raises(GateFailed, match=f"logits differ from {name} .*bound"):
            check_against_library(imported).raise_if_failed()


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    imported = import_weights(saved(tmp_path, timm_vit().state_dict()), heads=3)

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("testbed.models.importers.checking.import_module", missing)
    with pytest.raises(TestbedError, match="--check needs timm, which cannot be imported: pip install timm"):
        check_against_library(imported)


def test_every_key_that_can_be_stated_has_a_type():
    assert set(STATED_KEYS) == StatedFacts.__annotations__.keys()
