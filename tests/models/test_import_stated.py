"""What weights do not tell: stated, read from config.json, or told as usual; the libraries' own models are the oracle."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

import testbed.data._torchvision  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.core.errors import GateFailed, TestbedError, UsageError
from testbed.models.importers import check_against_library, import_weights, settings
from testbed.models.importers.facts.timm_models import timm_facts


def lively(model, seed=0):
    """Random parameters that keep activations large, so that a wrong activation or epsilon shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 1.5 / p[0].numel() ** 0.5 if p.dim() >= 2 and "pos" not in name and "token" not in name else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale + (name.endswith("weight") and p.dim() == 1))
    return model.eval()


def timm_vit(**changes):
    module = pytest.importorskip("timm.models.vision_transformer")
    sizes = {
        "img_size": 8,
        "patch_size": 2,
        "num_classes": 5,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 2,
    }
    return lively(module.VisionTransformer(**{**sizes, **changes}))


def saved(tmp_path, content, name="weights.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def images(channels=3, size=8):
    return torch.randn(6, channels, size, size, generator=torch.Generator().manual_seed(9))


def difference(imported, library, x=None):
    x = images() if x is None else x
    with torch.no_grad():
        want = library(x)
        return (imported.model(x) - getattr(want, "logits", want)).abs().max().item()


def told(imported):
    return {row.key: (row.value, row.source) for row in imported.facts}


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"])
def test_an_activation_that_is_stated(tmp_path, name):
    library = timm_vit(act_layer=name)
    path = saved(tmp_path, library.state_dict())
    imported = import_weights(path, heads=3, activation=name)
    assert difference(imported, library) < 1e-5
    assert told(imported)["activation"] == (name, "stated")
    usual = import_weights(path, heads=3)
    assert told(usual)["activation"] == ("gelu", "usual")
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
    assert all(told(imported)[key] == (value, "stated") for key, value in stated.items())


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
        assert told(import_weights(path))["channels"] == (3, "usual")
    elif channels != 12:  # 12 channels of 4 x 4 are as many as 3 of 8 x 8, which is usual and told so
        with pytest.raises(UsageError, match=r"of 4 x 4.*state it: --set channels=N"):
            import_weights(path)
    assert told(import_weights(path, data_set={"channels": channels}))["channels"] == (channels, "data set")


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


# ---- several sets of weights in one file


SETS = {
    "timm": lambda plain, ema: {"state_dict": plain, "state_dict_ema": ema, "arch": "vit", "epoch": 3},
    "deit": lambda plain, ema: {"model": plain, "model_ema": ema, "optimizer": {"state": {}, "param_groups": []}},
    "yolo": lambda plain, ema: {"model": plain, "ema": ema},
    "lightning": lambda plain, ema: {
        "state_dict": {f"model.{n}": t for n, t in plain.items()} | {f"model_ema.module.{n}": t for n, t in ema.items()}
    },
}


@pytest.mark.parametrize("form", SETS)
def test_of_two_sets_one_must_be_named(tmp_path, form):
    library, other = timm_vit(), timm_vit()
    ema = {name: tensor * 0.5 for name, tensor in library.state_dict().items()}
    other.load_state_dict(ema)
    path = saved(tmp_path, SETS[form](library.state_dict(), ema))
    with pytest.raises(UsageError, match=r"holds 2 sets of weights \(.*--set weights=\S+ or --set weights=\S+"):
        import_weights(path, heads=3)
    assert difference(import_weights(path, heads=3, weights="ema"), other) < 1e-5
    names = [name for name in SETS[form]({}, {}) if name not in ("arch", "epoch", "optimizer")]
    plain = names[0] if len(names) > 1 else "model"
    imported = import_weights(path, heads=3, weights=plain)
    assert difference(imported, library) < 1e-5
    assert told(imported)["weights"][1] == "stated"
    with pytest.raises(UsageError, match="no set of weights 'teacher'; it holds"):
        import_weights(path, heads=3, weights="teacher")


def test_an_average_without_names_is_told(tmp_path):
    """As torch_ema's ExponentialMovingAverage.state_dict() has it."""
    library = timm_vit()
    ema = {"decay": 0.99, "num_updates": 7, "shadow_params": [p.detach() * 0.5 for p in library.parameters()]}
    path = saved(tmp_path, {"model": library.state_dict(), "ema": ema, "optim": {"betas": [torch.zeros(5)] * 9}})
    with pytest.raises(UsageError, match=r"without names \(ema.shadow_params, .*; state --set weights=model, or save"):
        import_weights(path, heads=3)
    assert difference(import_weights(path, heads=3, weights="model"), library) < 1e-5
    del ema["shadow_params"]
    assert (
        difference(import_weights(saved(tmp_path, {"model": library.state_dict(), "ema": ema}), heads=3), library)
        < 1e-5
    )


def test_the_only_set_is_taken_whatever_lies_beside_it(tmp_path):
    library = timm_vit()
    adam = torch.optim.Adam(library.parameters())
    library(images()).sum().backward()
    adam.step()
    model = {f"model.{name}": tensor for name, tensor in library.state_dict().items()}
    metrics = {"train_acc.tp": torch.zeros(7, dtype=torch.long), "criterion.weight": torch.ones(5)}
    path = saved(tmp_path, {"state_dict": model | metrics, "optim": adam.state_dict(), "hyper_parameters": {"lr": 0.1}})
    imported = import_weights(path, heads=3)
    assert difference(imported, library) < 1e-5
    left_out = next(row for row in imported.facts if row.key == "left_out")
    assert left_out.value == 2
    assert "train_acc.tp, criterion.weight" in left_out.note


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_names_of_wrapped_blocks(tmp_path, wrapper):
    library = timm_vit()
    inside = {n.replace("blocks.0.", f"blocks.0.{wrapper}"): t for n, t in library.state_dict().items()}
    swa = {"n_averaged": torch.tensor(3)} | {f"module.{name}": tensor for name, tensor in inside.items()}
    assert difference(import_weights(saved(tmp_path, swa), heads=3), library) < 1e-5


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("blocks.0.attn.qkv.lora_A.default.weight", "LoRA adapters .merge them first"),
        ("blocks.0.mlp.fc1.weight_mask", "pruning masks .make them permanent first: torch.nn.utils.prune.remove"),
        ("blocks.0.mlp.fc1.parametrizations.weight.original0", "reparametrised weights"),
        ("blocks.0.mlp.fc1.weight.quant_map", "quantised weights"),
    ],
)
def test_weights_that_need_a_step_before_say_which(tmp_path, extra, said):
    path = saved(tmp_path, timm_vit().state_dict() | {extra: torch.zeros(2, 2)})
    with pytest.raises(TestbedError, match=said):
        import_weights(path, heads=3)


# ---- heads under other names


def torchvision_vit():
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 8, "patch_size": 2, "num_layers": 1, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 11}
    return VisionTransformer(**sizes, num_classes=10)


def linear():
    return torch.nn.Linear(24, 5)


@pytest.mark.parametrize(
    ("place", "make", "source"),
    [
        ("heads", linear, "file"),
        ("heads", lambda: torch.nn.Sequential(linear()), "file"),
        ("heads.head", linear, "file"),
        ("heads.head", lambda: torch.nn.Sequential(torch.nn.Dropout(0.2), linear()), "usual"),
        ("heads", lambda: torch.nn.Sequential(torch.nn.Dropout(0.2), linear()), "usual"),
    ],
)
def test_a_head_that_replaces_torchvisions(tmp_path, place, make, source):
    library = torchvision_vit()
    library.set_submodule(place, make())
    path = saved(tmp_path, lively(library).state_dict())
    imported = import_weights(path, heads=3)
    assert difference(imported, library) < 1e-5
    assert told(imported)["head"][1] == source


def test_a_head_of_two_layers_is_named_and_one_outside_can_be_stated(tmp_path):
    library = torchvision_vit()
    library.heads = torch.nn.Sequential(linear(), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    with pytest.raises(TestbedError, match=r"head is not one linear layer \(heads.0.weight.*onnx = FILE"):
        import_weights(saved(tmp_path, library.state_dict()), heads=3)
    trunk = timm_vit()
    content = {f"backbone.{n}": t for n, t in trunk.state_dict().items() if not n.startswith("head")}
    content |= {f"fc.{kind}": getattr(trunk.head, kind).detach() for kind in ("weight", "bias")}
    path = saved(tmp_path, content)
    with pytest.raises(TestbedError, match=r"no classification head \(head.weight.*state --set head=fc"):
        import_weights(path, heads=3)
    assert difference(import_weights(path, heads=3, head="fc"), trunk) < 1e-5


# ---- features by name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mlp_layer": "SwiGLUPacked"}, "gated MLPs"),
        ({"norm_layer": "rmsnorm"}, "norms without bias"),
        ({"proj_bias": False}, "linear maps without bias"),
        ({"final_norm": False}, "no LayerNorm after the blocks"),
        ({"block_fn": "ParallelThingsBlock"}, "parallel blocks"),
        ({"attn_layer": "diff"}, "differential attention"),
        ({"embed_norm_layer": "layernorm"}, "LayerNorm after the patch projection"),
        ({"pos_embed": "none"}, "without a position table"),
        ({"no_embed_class": True}, "CLS token without position"),
        ({"patch_size": (2, 4)}, "patches of 2 x 4 pixels are not square"),
        ({"img_size": (4, 16)}, None),
        ({"img_size": (4, 8)}, "images that are not square"),
    ],
)
def test_timm_features_say_their_name_and_what_to_do(tmp_path, changes, said):
    layers = pytest.importorskip("timm.layers")
    module = pytest.importorskip("timm.models.vision_transformer")
    classes = {"SwiGLUPacked": layers.SwiGLUPacked, "ParallelThingsBlock": module.ParallelThingsBlock}
    changes = {key: classes.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
    path = saved(tmp_path, timm_vit(**changes).state_dict())
    if said is None:  # as many patches as a square: told as an assumption
        row = next(row for row in import_weights(path, heads=3).facts if row.key == "image")
        assert (row.value, row.source) == (8, "usual")
        assert "16 patches tell no shape" in row.note
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
    assert told(imported)["image"] == (8, "stated")
    assert told(imported)["position"] == ("sincos_2d", "usual")
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


# ---- config.json


def huggingface(kind="ViT", **changes):
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 7}
    sizes |= {"image_size": 8, "patch_size": 2, "num_labels": 5}
    config = getattr(library, f"{kind}Config")(**{**sizes, **changes})
    return lively(getattr(library, f"{kind}ForImageClassification")(config))


@pytest.mark.parametrize(
    ("kind", "changes", "key", "value"),
    [
        ("ViT", {"hidden_act": "gelu_new"}, "activation", "gelu_tanh"),
        ("ViT", {"hidden_act": "quick_gelu"}, "activation", "quick_gelu"),
        ("ViT", {"hidden_act": "relu", "layer_norm_eps": 0.02}, "eps", 0.02),
        ("ViT", {"num_attention_heads": 6, "num_channels": 1}, "heads", 6),
        ("ViTMSN", {}, "eps", 1e-6),
        ("IJepa", {"qkv_bias": False}, "pooling", "mean"),
    ],
)
def test_a_huggingface_folder_says_what_its_weights_do_not(tmp_path, kind, changes, key, value):
    library = huggingface(kind, **changes)
    library.save_pretrained(tmp_path)
    imported = import_weights(tmp_path)
    assert difference(imported, library, images(changes.get("num_channels", 3))) < 1e-5
    assert told(imported)[key] == (value, "config.json")
    assert imported.assumed == ()
    check = check_against_library(imported)
    check.raise_if_failed()
    assert check.library == "transformers"
    assert check.max_abs_difference < 1e-5
    changed: dict[str, Any] = {key: "cls" if key == "pooling" and kind != "IJepa" else value}
    stated = import_weights(tmp_path, **changed)
    assert told(stated)[key] == (value, "stated")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"image_size": [8, 32]}, UsageError, r"config.json: images that are not square \(8x32\)"),
        ({"image_size": 16}, TestbedError, "describes image 16, the weights beside it have 8"),
        ({"num_channels": 1}, TestbedError, "describes channels 1, the weights beside it have 3"),
        ({"hidden_act": "mish"}, UsageError, "config.json: activation = 'mish' is not one of"),
        ({"model_type": "swin"}, UsageError, "model_type 'swin'"),
        ({"id2label": {"0": "cat"}}, TestbedError, "describes classes 1, the weights beside it have 5"),
        ({"hidden_size": "wide"}, UsageError, "width must be a whole number"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(tmp_path, change, error, said):
    huggingface().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(error, match=said) as raised:
        import_weights(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def huggingface_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    huggingface().save_pretrained(folder)
    return folder, json.loads((folder / "config.json").read_text())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings_of_hypothesis(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_a_config_says_there_is_a_model_or_one_line(huggingface_folder, data):
    folder, content = huggingface_folder
    key = data.draw(st.sampled_from([*content, "architecture", "model_args", "pretrained_cfg"]))
    (folder / "config.json").write_text(json.dumps(content | {key: data.draw(_JSON)}))
    said = ""
    try:
        assert import_weights(folder).facts
    except TestbedError as error:
        said = str(error)
    assert "\n" not in said


def test_a_config_of_something_else_is_told_and_not_read(tmp_path):
    path = saved(tmp_path, timm_vit().state_dict())
    for content, said in (
        ({"lr": 0.1}, "neither timm's nor Hugging Face's"),
        ({"model_type": "vit"}, "it is huggingface's"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        row = next(row for row in import_weights(path, heads=3).facts if row.key == "config.json")
        assert (row.value, said in row.note) == ("not read", True)


def test_what_is_stated_wins_over_config_json_and_is_told(tmp_path):
    huggingface().save_pretrained(tmp_path)
    imported = import_weights(tmp_path, activation="relu")
    row = next(row for row in imported.facts if row.key == "activation")
    assert (row.value, row.source, row.note) == ("relu", "stated", "config.json says gelu")
    with pytest.raises(GateFailed, match="logits differ from transformers"):
        check_against_library(imported).raise_if_failed()


def timm_folder(tmp_path, architecture="vit_tiny_patch16_224", library=None, **arguments):
    """A folder as timm pushes it to the hub, of a model that is smaller than published."""
    timm = pytest.importorskip("timm")
    small = {"img_size": 32, "depth": 2, "num_classes": 5, **arguments}
    model = lively(library or timm.create_model(architecture, pretrained=False, **small))
    config = {
        "architecture": architecture,
        "num_classes": 5,
        "global_pool": model.global_pool,
        "model_args": small,
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    return model


@pytest.mark.parametrize(
    ("architecture", "arguments", "facts"),
    [
        ("vit_tiny_patch16_224", {}, {"activation": "gelu", "heads": 3, "eps": 1e-6, "pooling": "cls"}),
        ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh", "num_heads": 6}, {"activation": "gelu_tanh", "heads": 6}),
        ("vit_small_patch16_224", {"global_pool": "avg"}, {"heads": 6, "pooling": "mean_patches"}),
    ],
)
def test_a_timm_folder_says_what_its_weights_do_not(tmp_path, architecture, arguments, facts):
    library = timm_folder(tmp_path, architecture, **arguments)
    imported = import_weights(tmp_path)
    assert difference(imported, library, images(3, 32)) < 1e-5
    assert imported.assumed == ()
    assert all(told(imported)[key] == (value, "config.json") for key, value in facts.items())
    check_against_library(imported).raise_if_failed()


def test_residual_post_norm_is_told_by_the_architecture_or_stated(tmp_path):
    timm = pytest.importorskip("timm")
    small = {"img_size": 32, "depth": 2, "num_classes": 5}
    library = timm_folder(tmp_path, "vit_base_patch16_rpn_224", timm.create_model("vit_base_patch16_rpn_224", **small))
    imported = import_weights(tmp_path)
    assert told(imported)["norm_order"] == ("residual_post", "config.json")
    assert difference(imported, library, images(3, 32)) < 1e-5
    check_against_library(imported).raise_if_failed()
    block = timm.models.vision_transformer.ResPostBlock
    library = timm_vit(block_fn=block)
    path = saved(tmp_path, library.state_dict(), "alone.pth")
    (tmp_path / "config.json").unlink()
    imported = import_weights(path, heads=3, norm_order="residual_post")
    assert difference(imported, library) < 1e-5
    assert check_against_library(imported).max_abs_difference < 1e-5
    assert difference(import_weights(path, heads=3), library) > 0.1  # what the row "norm_order pre, usual" warns of


def test_an_architecture_of_timm_that_no_model_of_ours_is(tmp_path):
    timm = pytest.importorskip("timm")
    small = {"img_size": 32, "num_classes": 5}
    timm_folder(tmp_path, library=timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=2, **small))
    config = json.loads((tmp_path / "config.json").read_text())
    for architecture, arguments, said in (
        ("swin_tiny_patch4_window7_224", {}, "'swin_tiny_patch4_window7_224' is timm's SwinTransformer: not supported"),
        ("vit_tiny_patch16_224", {"global_pool": "avgmax"}, "pooling 'avgmax': not supported"),
        ("vit_tiny_patch16_224", {"act_layer": "mish"}, "has the activation Mish"),
    ):
        changed = {"architecture": architecture, "global_pool": None, "model_args": arguments}
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(UsageError, match=said):
            import_weights(tmp_path)


def test_without_timm_its_plain_architectures_are_known_and_others_are_asked_for(tmp_path, monkeypatch):
    for architecture in ("vit_tiny_patch16_224", "deit_small_patch16_224", "vit_large_patch32_384"):
        with_timm = timm_facts(architecture, {"depth": 1, "num_classes": 5})
        monkeypatch.setattr("testbed.models.importers.facts.timm_models.importable", lambda name: None)
        assert timm_facts(architecture, {"num_classes": 5}) == with_timm
        monkeypatch.undo()
    library = timm_folder(tmp_path, act_layer="quick_gelu")
    monkeypatch.setattr("testbed.models.importers.facts.timm_models.importable", lambda name: None)
    with pytest.raises(
        UsageError, match="only timm knows its activation, heads, norm_order, eps: pip install timm, or"
    ):
        import_weights(tmp_path)
    stated: dict[str, Any] = {"activation": "quick_gelu", "heads": 3, "norm_order": "pre", "eps": 1e-6}
    assert difference(import_weights(tmp_path, **stated), library, images(3, 32)) < 1e-5


# ---- the comparison with the library's own model


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
