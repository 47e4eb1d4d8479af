import pytest
import safetensors.torch
import torch

from testbed.core.errors import StaleArtefact, TestbedError
from testbed.models.presets import preset
from testbed.models.vit import ViT
from testbed.models.weights import load_model, save_model


def digits(seed=0, **changes):
    torch.manual_seed(seed)
    return ViT(preset("digits", **changes))


@pytest.fixture
def saved(tmp_path):
    save_model(tmp_path / "model.safetensors", digits())
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "differential", "position": "2d"},
        {"position": "sinusoidal"},
        {"heads": (1, 0, 2), "mlp": (9, 3, 0)},
    ],
)
def test_a_model_comes_back_bit_for_bit_in_eval_mode(tmp_path, changes):
    model = digits(dropout=0.5, **changes)
    save_model(tmp_path / "m.safetensors", model)
    back = load_model(tmp_path / "m.safetensors")
    assert back.config == model.config
    assert not back.training
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True))
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(back(x), model.eval()(x))


def test_equal_models_give_equal_bytes(tmp_path, saved):
    save_model(tmp_path / "again.safetensors", digits().eval())
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    save_model(tmp_path / "other.safetensors", digits(seed=1))
    assert (tmp_path / "other.safetensors").read_bytes() != saved.read_bytes()


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_one_clear_line(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(StaleArtefact, match="truncated or not a safetensors file") as error:
        load_model(saved)
    assert "\n" not in str(error.value)
    assert str(saved) in str(error.value)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(StaleArtefact, match="is missing"):
        load_model(tmp_path / "none.safetensors")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(StaleArtefact, match="without their architecture"):
        load_model(tmp_path / "foreign.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(
        safetensors.torch.save({"x": torch.zeros(1)}, {"testbed": '{"format": 1, "config": {"wid'})
    )
    with pytest.raises(StaleArtefact, match="description is damaged"):
        load_model(tmp_path / "damaged.safetensors")


def rewritten(saved, change):
    with safetensors.safe_open(saved, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    saved.write_bytes(safetensors.torch.save(tensors, metadata))
    return saved


def test_keys_that_do_not_fit_are_listed(saved):
    def change(tensors):
        tensors["block.0.attn.quv.weight"] = tensors.pop("block.0.attn.qkv.weight")
        tensors["head.weight"] = torch.zeros(7, 32)

    with pytest.raises(StaleArtefact) as error:
        load_model(rewritten(saved, change))
    said = str(error.value)
    assert "missing 1: block.0.attn.qkv.weight" in said
    assert "extra 1: block.0.attn.quv.weight" in said
    assert "misshapen 1: head.weight 7x32 instead of 10x32" in said


def test_weights_of_another_type_are_refused(saved):
    with pytest.raises(StaleArtefact, match=r"float16, not float32"):
        load_model(rewritten(saved, lambda tensors: tensors.update({"head.bias": torch.zeros(10).half()})))


def test_a_folder_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TestbedError, match="cannot write"):
        save_model(tmp_path / "file" / "m.safetensors", digits())
