import pytest

from testbed.core.errors import UsageError
from testbed.models.presets import PRESETS, preset
from testbed.models.vit import ViT


def parameters(name, **overrides):
    return sum(p.numel() for p in ViT(preset(name, **overrides)).parameters())


def test_fashion_mnist_has_the_published_number_of_parameters():
    assert parameters("fashion-mnist") == 239_306


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny-imagenet", 18.89),
        ("vit-tiny-16-224", 5.52),
        ("vit-small-16-224", 21.66),
        ("vit-base-16-224", 85.78),
    ],
)
def test_published_sizes_in_millions(name, millions):
    assert round(parameters(name) / 1e6, 2) == millions


def closed_form(width, blocks, mlp, patch_values, positions, classes, qkv_bias=False):
    """Weights + biases of a pre-norm ViT, written out from its definition."""
    attention = width * 3 * width + (3 * width if qkv_bias else 0) + width * width + width
    feed_forward = 2 * width * mlp + mlp + width
    block = attention + feed_forward + 2 * 2 * width
    embedding = patch_values * width + width + width + positions * width
    return embedding + blocks * block + 2 * width + width * classes + classes


@pytest.mark.parametrize(
    ("name", "width", "blocks", "mlp"),
    [
        ("cifar10", 256, 6, 1024),
        ("cifar10-1", 384, 8, 1536),
        ("cifar10-2", 512, 10, 2048),
        ("cifar10-3", 256, 12, 768),
    ],
)
def test_cifar10_sizes(name, width, blocks, mlp):
    assert parameters(name) == closed_form(width, blocks, mlp, 48, 65, 10)


def test_digits_is_tiny():
    assert parameters("digits") == closed_form(32, 3, 64, 4, 17, 10, qkv_bias=True)


@pytest.mark.parametrize("name", PRESETS)
def test_head_width_and_heads_fill_the_width(name):
    config = preset(name)
    assert {h * config.head_width for h in config.heads} == {config.width}


def test_overrides_replace_fields():
    assert preset("digits", classes=3, dropout=0.5).classes == 3
    assert preset("digits").classes == 10


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'vit-huge'.*digits.*vit-base-16-224"):
        preset("vit-huge")
    with pytest.raises(UsageError, match=r"unknown key 'depht'"):
        preset("digits", depht=2)
