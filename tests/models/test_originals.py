import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from testbed.core.errors import TestbedError, UsageError
from testbed.models.importers import export_vit_pytorch
from testbed.models.originals import (
    TierIndices,
    read_attention_dataset,
    read_attention_weights,
    read_golden,
    read_tier_indices,
    write_attention_dataset,
    write_attention_weights,
    write_golden,
    write_tier_indices,
)
from testbed.models.presets import preset
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT
from tests.support.bomb import Bomb

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 10), np.float32)
INPUTS, OUTPUTS = RNG.standard_normal((2, 6, 5, 8), np.float32)


def t(array):
    return torch.from_numpy(np.array(array))


def saved(tmp_path, value):
    torch.save(value, tmp_path / "original.pt")
    return tmp_path / "original.pt"


@pytest.mark.parametrize(
    "value",
    [
        t(LOGITS),
        [t(row) for row in LOGITS],
        [t(LOGITS[:4]), t(LOGITS[4:])],
        {"logits": t(LOGITS)},
        (t(LOGITS).double(),),
    ],
    ids=["tensor", "rows", "batches", "dict", "tuple of double"],
)
def test_goldens(tmp_path, value):
    read = read_golden(saved(tmp_path, value))
    assert read.dtype == np.float32
    assert np.array_equal(read, LOGITS)


def test_a_golden_is_written_as_one_float32_tensor(tmp_path):
    write_golden(tmp_path / "golden_tiny.pt", LOGITS)
    content = torch.load(tmp_path / "golden_tiny.pt", weights_only=True)
    assert content.dtype == torch.float32
    assert content.device.type == "cpu"
    assert torch.equal(content, t(LOGITS))


def test_special_values_keep_their_bits(tmp_path):
    words = np.array([[0x7FC00001, 0xFF800000, 0x80000000, 0x00000001]], np.uint32)
    write_golden(tmp_path / "g.pt", words.view(np.float32))
    assert np.array_equal(read_golden(tmp_path / "g.pt").view(np.uint32), words)


@pytest.mark.parametrize(
    "value",
    [
        {"inputs": t(INPUTS), "outputs": t(OUTPUTS)},
        {"attn_out": t(OUTPUTS), "attn_in": t(INPUTS)},
        {"y": t(OUTPUTS), "x": t(INPUTS)},
        (t(INPUTS), t(OUTPUTS)),
        [t(INPUTS), t(OUTPUTS)],
        TensorDataset(t(INPUTS), t(OUTPUTS)),
        [(t(x), t(y)) for x, y in zip(INPUTS, OUTPUTS, strict=True)],
        [(t(INPUTS[:3]), t(OUTPUTS[:3])), (t(INPUTS[3:]), t(OUTPUTS[3:]))],
        [{"input": t(x), "output": t(y)} for x, y in zip(INPUTS, OUTPUTS, strict=True)],
        [[t(x) for x in INPUTS], [t(y) for y in OUTPUTS]],
        (tuple(t(x) for x in INPUTS), tuple(t(y) for y in OUTPUTS)),
        {"inputs": [t(x[None]) for x in INPUTS], "outputs": [t(y[None]) for y in OUTPUTS]},
    ],
)
def test_attention_datasets(tmp_path, value):
    inputs, outputs = read_attention_dataset(saved(tmp_path, value))
    assert np.array_equal(inputs, INPUTS)
    assert np.array_equal(outputs, OUTPUTS)


def test_an_attention_dataset_is_written_as_a_dict_of_two_tensors(tmp_path):
    path = tmp_path / "tiny_attn_dataset.pt"
    np.save(tmp_path / "inputs.npy", INPUTS)
    write_attention_dataset(path, np.load(tmp_path / "inputs.npy", mmap_mode="r"), OUTPUTS)
    content = torch.load(path, weights_only=True)
    assert list(content) == ["inputs", "outputs"]
    assert torch.equal(content["inputs"], t(INPUTS))
    assert all(np.array_equal(a, b) for a, b in zip(read_attention_dataset(path), (INPUTS, OUTPUTS), strict=True))
    with pytest.raises(UsageError, match="must both be"):
        write_attention_dataset(path, INPUTS, OUTPUTS[:2])


@pytest.mark.parametrize("heads", [None, 2])
def test_attention_weights(tmp_path, heads):
    torch.manual_seed(0)
    model = ViT(preset("digits", qkv_bias=False, head_width=64 if heads is None else 16, dropout=0.5)).eval()
    write_attention_weights(tmp_path / "tiny_part_att.pth", model)
    content = torch.load(tmp_path / "tiny_part_att.pth", weights_only=True)
    whole = export_vit_pytorch(model)
    assert list(content) == ["to_qkv.weight", "to_out.0.weight", "to_out.0.bias"]
    assert all(torch.equal(content[name], whole[f"transformer.layers.0.0.fn.{name}"]) for name in content)
    part, x = read_attention_weights(tmp_path / "tiny_part_att.pth", heads), torch.randn(2, 17, 32)
    assert torch.equal(part(x), model.get_submodule("block.0.attn")(x))
    assert part.state_dict().keys() == subnetwork(model, "attention").state_dict().keys()
    write_attention_weights(tmp_path / "again.pth", part)
    assert (tmp_path / "again.pth").read_bytes() == (tmp_path / "tiny_part_att.pth").read_bytes()


def test_attention_weights_that_do_not_fit(tmp_path):
    good = {
        "to_qkv.weight": torch.zeros(192, 8),
        "to_out.0.weight": torch.zeros(8, 64),
        "to_out.0.bias": torch.zeros(8),
    }
    assert read_attention_weights(saved(tmp_path, good)).get_submodule("block.0.attn").heads == 1
    with pytest.raises(UsageError, match="5 heads cannot share"):
        read_attention_weights(saved(tmp_path, good), heads=5)
    renamed = {("to_out.weight" if name == "to_out.0.weight" else name): tensor for name, tensor in good.items()}
    with pytest.raises(TestbedError, match=r"missing 1: to_out.0.weight; extra 1: to_out.weight"):
        read_attention_weights(saved(tmp_path, renamed))
    with pytest.raises(TestbedError, match=r"to_out.0.bias 9 instead of 8"):
        read_attention_weights(saved(tmp_path, good | {"to_out.0.bias": torch.zeros(9)}))
    with pytest.raises(TestbedError, match="no matrix to_qkv"):
        read_attention_weights(saved(tmp_path, {"weight": torch.zeros(3)}))


@pytest.mark.parametrize("changes", [{"qkv_bias": True}, {"qkv_bias": False, "attention": "differential"}])
def test_attention_that_the_file_cannot_hold(tmp_path, changes):
    with pytest.raises(UsageError, match=r"cannot hold (qkv\.bias|mix)"):
        write_attention_weights(tmp_path / "x_part_att.pth", ViT(preset("digits", **changes)))


INDICES = TierIndices(((0, 4), (), (1, 7), (3,)), (2, 5, 6))


@pytest.mark.parametrize(
    "value",
    [
        [[[0, 4], [], [1, 7], [3]], [2, 5, 6]],
        ([torch.tensor([0, 4]), torch.tensor([], dtype=torch.int64), [1, 7], [3]], torch.tensor([2, 5, 6])),
        {"incorrect": [2, 5, 6], "correct": [[0, 4], [], [1, 7], [3]]},
        [[[0, 4], [], [1, 7], [3]], [[5], [2, 6], [], []]],
        [[[torch.tensor(0), torch.tensor(4)], [], [1, 7], [3]], [2, 5, 6]],
    ],
)
def test_tier_indices(tmp_path, value):
    assert read_tier_indices(saved(tmp_path, value)) == INDICES


def test_tier_indices_are_written_as_two_plain_lists(tmp_path):
    write_tier_indices(tmp_path / "x_cnf_corr_out4.pt", INDICES)
    content = torch.load(tmp_path / "x_cnf_corr_out4.pt", weights_only=True)
    assert content == [[[0, 4], [], [1, 7], [3]], [2, 5, 6]]
    assert read_tier_indices(tmp_path / "x_cnf_corr_out4.pt") == INDICES


def test_correct_images_without_tiers_are_one_tier(tmp_path):
    assert read_tier_indices(saved(tmp_path, [[0, 1], [2]])) == TierIndices(((0, 1),), (2,))


@pytest.mark.parametrize(
    ("read", "value", "said"),
    [
        (read_golden, {"a": t(LOGITS), "b": t(LOGITS)}, "several entries"),
        (read_golden, t(LOGITS[0][:0]).long(), "no float array of 2 dimensions"),
        (read_golden, t(INPUTS), "no float array of 2 dimensions"),
        (read_golden, [t(LOGITS), t(LOGITS[:, :5])], "no float array"),
        (read_golden, "text", "holds str, not arrays"),
        (read_attention_dataset, t(INPUTS), "holds Tensor, not the inputs and outputs"),
        (read_attention_dataset, {"a": t(INPUTS), "b": t(OUTPUTS)}, "one must be the inputs"),
        (read_attention_dataset, (t(INPUTS), t(OUTPUTS[:3])), "differ in shape"),
        (read_attention_dataset, [], "holds list"),
        (read_tier_indices, [[0], [1], [2], [3]], "must hold two lists"),
        (read_tier_indices, {"a": [0], "b": [1]}, "none or several"),
        (read_tier_indices, [[[0, 1], [1]], []], "more than once: 1"),
        (read_tier_indices, [[[0, -1]], []], "negative: -1"),
        (read_tier_indices, [[[0.5]], []], "0.5 is not the position"),
    ],
)
def test_other_contents_are_one_clear_line(tmp_path, read, value, said):
    path = saved(tmp_path, value)
    with pytest.raises(TestbedError, match=said) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_golden, read_attention_dataset, read_attention_weights, read_tier_indices])
def test_truncated_missing_and_dangerous_files(tmp_path, read):
    with pytest.raises(UsageError, match="there is no file"):
        read(tmp_path / "none.pt")
    path = saved(tmp_path, t(LOGITS))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(TestbedError, match="truncated"):
        read(path)
    with pytest.raises(TestbedError, match="would run code"):
        read(saved(tmp_path, [Bomb(tmp_path / "it-ran")]))
    assert not (tmp_path / "it-ran").exists()
