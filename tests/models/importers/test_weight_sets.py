"""Files with several sets of weights, and heads under other names: one must be named, or is told."""

import pytest
import torch

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.core.errors import TestbedError, UsageError
from testbed.models.importers import import_weights
from tests.support.weights import difference, images, lively, saved, stated_facts, timm_vit, torchvision_vit

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
    assert stated_facts(imported)["weights"][1] == "stated"
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
    assert stated_facts(imported)["head"][1] == source


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
