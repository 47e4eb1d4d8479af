import pytest
import torch

from testbed.core.errors import UsageError
from testbed.models.presets import preset
from testbed.models.subnetwork import part_named, subnetwork, target_module
from testbed.models.vit import ViT, taps

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def digits(**changes):
    torch.manual_seed(0)
    return ViT(preset("digits", **changes)).eval()


def recorded(model, target):
    """Input and output of the target inside the full model."""
    seen: dict[str, torch.Tensor] = {}
    handle = target_module(model, target).register_forward_hook(lambda _m, i, out: seen.update(x=i[0], y=out))
    with torch.no_grad():
        model(X)
    handle.remove()
    return seen["x"], seen["y"]


@pytest.mark.parametrize("target", ["attention", "attention:0", "attention:2", "block:1"])
@pytest.mark.parametrize("order", ["pre", "post"])
@torch.no_grad()
def test_the_part_alone_repeats_what_it_does_in_the_model(target, order):
    model = digits(norm_order=order, dropout=0.3)
    x, y = recorded(model, target)
    part = subnetwork(model.train(), target)
    assert torch.equal(part(x), y)
    assert model.training


@torch.no_grad()
def test_attention_is_fed_after_the_norm_and_read_before_the_residual():
    model = digits()
    x, y = recorded(model, "attention")
    stream = model.embedded(X)
    assert torch.equal(x, model.block[0].norm1(stream))
    after: dict[str, torch.Tensor] = {}
    model.block[0].attn_residual.register_forward_hook(lambda _m, _i, out: after.update(y=out))
    model(X)
    torch.testing.assert_close(after["y"], stream + y)


@pytest.mark.parametrize(("target", "prefix"), [("attention:1", "block.1.attn."), ("block:1", "block.1.")])
def test_sites_and_weights_keep_the_names_of_the_full_model(target, prefix):
    model, part = digits(), subnetwork(digits(), target)
    wanted = [name for name in model.state_dict() if name.startswith(prefix)]
    assert list(part.state_dict()) == wanted
    residual = "block.1.attn.residual" if target.startswith("attention") else None
    assert list(taps(part)) == [name for name in taps(model) if name.startswith(prefix) and name != residual]


def test_weights_are_copied_not_shared():
    model = digits()
    part = subnetwork(model, "attention")
    with torch.no_grad():
        part.get_parameter("block.0.attn.qkv.weight").zero_()
    assert torch.count_nonzero(model.block[0].attn.qkv.weight) > 0


def test_the_first_attention_is_the_first_there_is():
    assert part_named(digits(heads=(0, 2, 2)), "attention").block == 1
    assert target_module(model := digits(), "model") is model


@pytest.mark.parametrize(
    ("target", "changes", "said"),
    [
        ("atention", {}, "targets: model, attention, attention:N, block:N"),
        ("block", {}, "unknown target 'block'"),
        ("model", {}, "unknown target 'model'"),
        ("attention:3", {}, "has 3 blocks"),
        ("attention:1", {"heads": (2, 0, 2)}, "block 1 has no attention"),
        ("attention", {"heads": (0, 0, 0)}, "has no attention"),
        ("block:1", {"heads": (2, 0, 2), "mlp": (8, 0, 8)}, "block 1 is empty"),
    ],
)
def test_targets_that_do_not_exist_are_refused(target, changes, said):
    with pytest.raises(UsageError, match=said):
        subnetwork(digits(**changes), target)
