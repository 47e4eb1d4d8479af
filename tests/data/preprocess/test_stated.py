"""Stated preprocessing gives the tensors of the library whose configuration it is."""

import json

import numpy as np
import pytest
from PIL import Image

from testbed.core.errors import TestbedError, UsageError
from testbed.data import (
    load,
    torchvision_import,  # noqa: F401  before torchvision, which timm and transformers import
)
from testbed.data.preprocess.stated import kept, preprocess_asked, preprocess_from
from testbed.data.preprocess.steps import PREPROCESS

# sides odd and even, wide and tall, above and below the model's
SHAPES = [(75, 100), (100, 75), (37, 37), (64, 97), (150, 41), (33, 32)]


def photo(height, width, seed=0):
    """Smooth with some noise, as photographs are; RGB."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [x / 7 + y / 9, (x + y) / 5, x / 11 - y / 4]
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return (127 + 100 * np.sin(np.stack(waves, -1)) + noise).clip(0, 255).astype(np.uint8)


def model_input(preprocess, pixels):
    return preprocess.normalised(preprocess.fitted(pixels, preprocess.size)[None])[0]


TIMM = [
    {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
    {"input_size": [3, 31, 31], "crop_pct": 0.875, "interpolation": "bilinear", "crop_mode": "center"},
    {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "lanczos", "crop_mode": "squash"},
    {"input_size": [3, 31, 31], "crop_pct": 0.95, "interpolation": "nearest", "crop_mode": "squash"},
    {"input_size": [3, 32, 32]},  # all the rest is timm's default
]


@pytest.mark.parametrize("config", TIMM)
def test_equals_timm_s_evaluation_transform(config):
    pytest.importorskip("timm")
    import timm.data

    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config), is_training=False)
    ours = preprocess_from({"architecture": "vit_tiny", "num_classes": 10, "pretrained_cfg": config})
    assert ours == preprocess_from(config)
    for shape in SHAPES:
        pixels = photo(*shape)
        expected = theirs(Image.fromarray(pixels)).numpy()
        np.testing.assert_allclose(model_input(ours, pixels), expected, rtol=0, atol=1e-6)


TIMM_HALF = {"crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
WHOLE = {"size": {"height": 32, "width": 32}, "resample": 3, "do_center_crop": False, **HALF}
HUGGINGFACE = [
    ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    ("ViTImageProcessorPil", {"size": 31, "resample": 3, **HALF}),
    ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}, "do_normalize": False}),
    ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5, "resample": 0}),
    ("DeiTImageProcessorPil", {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}}),
    ("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    ("CLIPImageProcessorPil", {"size": 33, "crop_size": 28, "resample": 1}),
    ("BitImageProcessorPil", {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}, **HALF}),
    ("BeitImageProcessorPil", {"size": {"height": 37, "width": 37}, "do_center_crop": True, "crop_size": 32}),
    ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_pct": 0.9}),
    ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
    ("SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    ("LevitImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
]


@pytest.mark.parametrize(("kind", "changes"), HUGGINGFACE)
@pytest.mark.parametrize("complete", [False, True])
def test_equals_huggingface_s_image_processor(kind, changes, complete, tmp_path):
    """Of the whole file that the library writes, and of one that leaves out what is usual."""
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, kind)(**changes)
    if complete:
        theirs.save_pretrained(tmp_path)
        ours = preprocess_from(tmp_path)
    else:
        ours = preprocess_from({"image_processor_type": kind.removesuffix("Pil"), **changes})
    for shape in SHAPES[:5]:
        pixels = photo(*shape)
        expected = theirs(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(model_input(ours, pixels), expected, rtol=1e-6, atol=1e-6)


def test_stated_values_equal_torchvision_s_transforms():
    from torchvision import transforms as t

    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    ours = preprocess_asked("size=32,resize_to=41,interpolation=bicubic,mean=0.1 0.2 0.3,std=[0.4, 0.5, 0.6]")
    theirs = t.Compose(
        [t.Resize(41, t.InterpolationMode.BICUBIC), t.CenterCrop(32), t.ToTensor(), t.Normalize(mean, std)]
    )
    for shape in SHAPES:
        pixels = photo(*shape)
        np.testing.assert_array_equal(model_input(ours, pixels), theirs(Image.fromarray(pixels)).numpy())


def test_not_resized_is_the_centre_as_stored():
    pixels = photo(8, 9)
    ours = preprocess_asked({"resize": "none", "size": 4, "mean": 0, "std": 1, "scale": 1})
    np.testing.assert_array_equal(model_input(ours, pixels), pixels[2:6, 2:6].transpose(2, 0, 1))  # 2.5 rounds to 2
    with pytest.raises(UsageError, match="an image of 3 x 9 is smaller than the model input, 4 x 4"):
        ours.fitted(photo(3, 9), 4)


def test_one_statement_in_every_form(tmp_path):
    table = {"resize": "squash", "size": 224, "crop": 0.9, "interpolation": "bicubic", "mean": [0.5], "std": [0.25]}
    text = "resize=squash,size=224,crop=0.9,interpolation=bicubic,mean=0.5,std=0.25"
    (tmp_path / "p.json").write_text(json.dumps(table))
    (tmp_path / "p.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items()))
    (tmp_path / "q.toml").write_text("[preprocess]\n" + (tmp_path / "p.toml").read_text())
    forms = (
        table,
        text,
        json.dumps(table),
        str(tmp_path / "p.json"),
        str(tmp_path / "p.toml"),
        str(tmp_path / "q.toml"),
    )
    found = [preprocess_asked(form) for form in forms]
    assert all(one == found[0] for one in found)
    assert (found[0].resize, found[0].size, found[0].resized_side(224)) == ("squash", 224, 248)
    assert found[0].one_line() == ("stated: both sides to 248 (bicubic), centre 224, values / 255, mean 0.5, std 0.25")
    # what is kept is the values, wherever they came from, and it reads back as the same
    assert kept(text) == kept(str(tmp_path / "p.toml"))
    assert json.loads(json.dumps(kept(text))) == kept(text)
    again = kept(text)
    assert again is not None
    assert preprocess_asked(again) == found[0]
    assert kept("cifar10") == "cifar10"
    assert kept(None) is None


def test_a_preset_with_a_change():
    ours = preprocess_asked("imagenet,crop=0.9,interpolation=bicubic")
    assert ours.mean == PREPROCESS["imagenet"].mean
    assert ours.resized_side(224) == 248
    assert preprocess_asked({"preset": "imagenet-crop", "crop": 1.0}).resized_side(224) == 224


def test_presets_are_described_as_ever():
    """Manifests of finished runs hold these, and are compared with them."""
    assert PREPROCESS["cifar10"].describe() == {
        "name": "cifar10",
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2023, 0.1994, 0.2010],
        "margin": 1.0,
        "interpolation": "bilinear, antialiased",
    }
    stated = preprocess_asked("cifar10,crop=0.9,interpolation=nearest").describe()
    assert stated["crop"] == 0.9
    assert stated["interpolation"] == "nearest"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("imagenett", "unknown preprocess 'imagenett'; did you mean 'imagenet'. Known: cifar10, .*crop=0.9"),
        ("nowhere.json", "there is no file nowhere.json"),
        ("crop=0.9", "mean is missing; state mean and std"),
        ("mean=0.5,std=0.5,crp=0.9", "unknown key 'crp'; did you mean 'crop'. Known: preset, resize"),
        ("mean=0.5,std=0.5,crop=1.5", r"crop is the share .* not 1\.5"),
        ("mean=0.5,std=0.5,crop=87.5", r"crop is the share"),
        ("mean=0.5,std=0", "std and scale are above 0"),
        ("mean=0.5 0.5,std=0.5", "mean has 2 and std 1 values"),
        ("mean=a,std=0.5", "mean is a number, not 'a'"),
        ("mean=0.5,std=0.5,size=22.4", "size is a whole number of pixels"),
        ("mean=0.5,std=0.5,interpolation=cubic", "interpolation is one of nearest, bilinear, bicubic"),
        ("mean=0.5,std=0.5,resize=longer", "resize is one of shorter, squash, none"),
        ("mean=0.5,std=0.5,crop=0.9,margin=1.1", "crop and margin say the same"),
        ("mean=0.5,std=0.5,resize_to=256", "resize_to needs size"),
        ("mean=0.5,std=0.5,size=224,resize_to=200", "resized to 0.892857 of the model input"),
        ("imagenett,crop=0.9", "'imagenett' is no KEY=VALUE, and no preset"),
        ("{", "is not JSON"),
        ({"input_size": [3, 384, 288]}, "384 x 288; only square"),
        ({"input_size": [3, 224, 224], "crop_mode": "border"}, "'border' .* is not supported"),
        ({"input_size": 224}, "its preprocessing is damaged"),
        ({"model_type": "vit", "hidden_size": 768}, "says nothing of preprocessing"),
        ({"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"image_processor_type": "PoolFormerImageProcessor", **WHOLE}, "what PoolFormerImageProcessor does besides"),
        ({"image_processor_type": "OwnImageProcessorFast", **WHOLE}, "what OwnImageProcessorFast does .*state the pre"),
        ({"do_resize": True, "size": {"shortest_edge": 224}, "do_center_crop": False, **HALF}, "would not be square"),
        ({"do_resize": True, "size": {"height": 2, "width": 3}, **HALF}, "2 x 3; only square"),
        ({"do_resize": True, "size": {"height": 3, "width": 3}, **HALF}, "resample is not told"),
        ({"do_resize": True, "size": 3, "resample": 2, **HALF}, "height and width of size is not told"),
        ({"do_resize": False, **HALF}, "neither resizes nor crops"),
        ({"do_resize": True, "size": {"height": 3, "width": 3}, "resample": 9, **HALF}, "none of Pillow's filters"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(asked, message):
    with pytest.raises(UsageError, match=message):
        preprocess_asked(asked)


def test_a_folder_and_a_type_that_only_the_model_s_config_tells(tmp_path):
    with pytest.raises(UsageError, match=r"holds no preprocessor_config\.json and no"):
        preprocess_from(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit_mae"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_resize": True, "size": 224, **HALF}))
    found = preprocess_from(tmp_path)
    assert (found.resize, found.size, found.interpolation) == ("squash", 224, "bilinear")
    (tmp_path / "preprocessor_config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TestbedError, match="cannot be read"):
        preprocess_from(tmp_path)


def test_load_takes_the_stated_size_and_refuses_another(class_folder):
    folder = class_folder("photos", size=24)
    stated = "size=16,crop=0.8,mean=0.5,std=0.5"
    data = load(f"imagefolder:{folder}", preprocess=stated)
    assert data.image == 16
    assert data.test.batch([0]).shape == (1, 3, 16, 16)
    with pytest.raises(UsageError, match="makes images of 16 pixels, the model takes 32"):
        load(f"imagefolder:{folder}", preprocess=stated, image=32)
    none = load(f"imagefolder:{folder}", preprocess="none,resize=none", image=32)
    with pytest.raises(UsageError, match=r"image 'cat/00\.png': an image of 24 x 24 is smaller"):
        none.test.batch([0])


def test_alike_is_what_is_done_and_not_what_it_is_called():
    half, timm = (
        PREPROCESS["half"],
        preprocess_from({"input_size": [3, 32, 32], "interpolation": "bilinear", **TIMM_HALF}),
    )
    assert half.alike(timm, 32)
    for change in ("crop=0.9", "interpolation=bicubic", "mean=0.4", "std=0.4", "resize=squash", "scale=1", "size=31"):
        assert not preprocess_asked(f"half,{change}").alike(half, 32), change


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e308, 10**400])
@pytest.mark.parametrize("key", ["mean", "std", "scale", "margin", "crop", "size", "resize_to"])
def test_numbers_beyond_any_use_are_refused(key, number):
    with pytest.raises(UsageError, match=r"preprocess: .*(is|are) "):
        preprocess_from({"mean": 0.5, "std": 0.5, "size": 8, "resize": "squash", key: number})


@pytest.mark.parametrize(("shape", "stated"), [((3, 1 << 18), "size=1000"), ((8, 8), "size=8,margin=1000000")])
def test_an_image_that_would_grow_out_of_memory_is_refused(shape, stated):
    with pytest.raises(UsageError, match=f"an image of {shape[0]} x {shape[1]} would be resized to"):
        model_input(preprocess_asked(f"{stated},mean=0.5,std=0.5"), np.zeros(shape, np.uint8))
