import json

import numpy as np
import pytest

from testbed.core.errors import UsageError
from testbed.models.config import ViTConfig, uniform
from testbed.models.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_json(name):
    config = preset(name)
    assert ViTConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_what_was_added_is_not_written_where_it_is_usual_so_that_older_files_keep_their_hash():
    assert not {"activation", "proj_bias"} & preset("digits").to_json().keys()
    assert preset("digits", activation="silu").to_json()["activation"] == "silu"
    assert ViTConfig.from_json(preset("digits", activation="silu").to_json()).activation == "silu"


def test_numpy_counts_are_taken_as_numbers():
    config = preset("digits").with_(heads=(np.int64(2), np.int64(0)), mlp=[8, 8], width=np.int32(32))
    assert json.loads(json.dumps(config.to_json()))["heads"] == [2, 0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": 9}, "image size 9 is not a multiple of patch size 2"),
        ({"width": 0}, "width must be a whole number, at least 1, not 0"),
        ({"width": "32"}, "width must be a whole number"),
        ({"width": True}, "width must be a whole number"),
        ({"heads": 3}, "heads must list one number per block"),
        ({"heads": (2, -1, 2)}, "heads must list"),
        ({"mlp": (8,)}, "3 blocks name heads but 1 name mlp"),
        ({"pooling": "max"}, "pooling must be one of cls, mean, mean_patches"),
        ({"init": "ones"}, "init must be one of"),
        ({"attention": "linear"}, "attention must be one of softmax, differential"),
        ({"activation": "tanh"}, "activation must be one of gelu, gelu_tanh, quick_gelu, relu, silu"),
        ({"norm_order": "residual_post", "heads": (2, 0, 2)}, "needs attention and an MLP in every block"),
        ({"cls_token": False}, "pooling 'cls' needs cls_token"),
        ({"qkv_bias": "yes"}, "qkv_bias must be true or false"),
        ({"attention": "differential", "head_width": 5}, "halves head_width"),
        ({"position": "sinusoidal", "width": 33}, "needs an even width"),
        ({"position": "sincos_2d", "width": 34}, "needs a width of 8 or more divisible by 4"),
        ({"proj_bias": 1}, "proj_bias must be true or false"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"dropout": float("nan")}, r"dropout must lie in \[0, 1\)"),
    ],
)
def test_impossible_architectures_are_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        preset("digits").with_(**changes)


def test_missing_and_unknown_keys_are_named():
    values = preset("digits").to_json()
    with pytest.raises(UsageError, match="unknown key 'widht'"):
        ViTConfig.from_json(values | {"widht": 3})
    del values["classes"]
    with pytest.raises(UsageError, match="classes"):
        ViTConfig.from_json(values)


def test_tokens_count_cls_only_where_there_is_one():
    assert uniform(1, 1, 1, image=8, patch=2, channels=1, width=4, classes=2).tokens == 17
    without = uniform(1, 1, 1, image=8, patch=2, channels=1, width=4, classes=2, cls_token=False, pooling="mean")
    assert without.tokens == 16
