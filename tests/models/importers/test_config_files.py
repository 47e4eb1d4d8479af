"""What config.json beside the weights says of them; the libraries' own models are the oracle."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.core.errors import GateFailed, TestbedError, UsageError
from testbed.models.importers import check_against_library, import_weights
from testbed.models.importers.facts.timm_models import timm_facts
from tests.support.weights import difference, images, lively, saved, stated_facts, timm_vit


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
    assert stated_facts(imported)[key] == (value, "config.json")
    assert imported.assumed == ()
    check = check_against_library(imported)
    check.raise_if_failed()
    assert check.library == "transformers"
    assert check.max_abs_difference < 1e-5
    changed: dict[str, Any] = {key: "cls" if key == "pooling" and kind != "IJepa" else value}
    stated = import_weights(tmp_path, **changed)
    assert stated_facts(stated)[key] == (value, "stated")


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
    assert all(stated_facts(imported)[key] == (value, "config.json") for key, value in facts.items())
    check_against_library(imported).raise_if_failed()


def test_residual_post_norm_is_told_by_the_architecture_or_stated(tmp_path):
    timm = pytest.importorskip("timm")
    small = {"img_size": 32, "depth": 2, "num_classes": 5}
    library = timm_folder(tmp_path, "vit_base_patch16_rpn_224", timm.create_model("vit_base_patch16_rpn_224", **small))
    imported = import_weights(tmp_path)
    assert stated_facts(imported)["norm_order"] == ("residual_post", "config.json")
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
