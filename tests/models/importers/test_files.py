"""What a file is, from its content: weights in whatever form, or something else that says what it is and what to do."""

import gzip
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for timm
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.file_kinds import is_safetensors
from testbed.models.importers import export_vit_pytorch, import_weights
from testbed.models.presets import preset
from testbed.models.vit import ViT
from testbed.models.weights import load_model, save_model
from tests.support.weights import VIT_PYTORCH_SIZES


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViT(preset("digits", **VIT_PYTORCH_SIZES)).eval()


@pytest.fixture
def state_dict(model):
    return export_vit_pytorch(model)


def same(path, model):
    imported = import_weights(path).model
    return all(torch.equal(a, b) for a, b in zip(imported.parameters(), model.parameters(), strict=True))


def refused(path, error=TestbedError):
    with pytest.raises(error) as raised:
        import_weights(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- what is read


def test_the_content_decides_and_not_the_name(tmp_path, model, state_dict):
    safetensors.torch.save_file(state_dict, tmp_path / "named.pth")
    torch.save(state_dict, tmp_path / "named.safetensors")
    torch.save(state_dict, tmp_path / "no suffix")
    torch.save(state_dict, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    assert all(same(path, model) for path in tmp_path.iterdir())


def test_a_path_that_is_not_utf8(tmp_path, model, state_dict):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (folder / "w.safetensors").write_bytes(safetensors.torch.save(state_dict))
    torch.save(state_dict, folder / "w.pth")
    assert same(folder / "w.safetensors", model)
    assert same(folder / "w.pth", model)
    save_model(folder / "own.safetensors", model)
    with pytest.raises(UsageError, match="paths in UTF-8 only; rename"):
        load_model(folder / "own.safetensors")


@pytest.mark.parametrize("first", [b"<", b"\x08", b"\x1f\x8b", b"PK"])
def test_a_safetensors_header_of_any_length_is_no_other_kind_of_file(tmp_path, model, state_dict, first):
    """The file begins with the header's length, whose bytes can be the first ones of other formats."""
    plain = safetensors.torch.save(state_dict)
    length = int.from_bytes(plain[:8], "little")
    step = 256 ** len(first)
    wanted = length + (int.from_bytes(first, "little") - length) % step
    header = plain[8 : 8 + length] + b" " * (wanted - length)
    path = tmp_path / "w.safetensors"
    path.write_bytes(wanted.to_bytes(8, "little") + header + plain[8 + length :])
    assert path.read_bytes().startswith(first)
    assert is_safetensors(path)
    assert same(path, model)


def test_a_path_among_the_hyper_parameters_runs_no_code(tmp_path, model, state_dict):
    content = {"state_dict": {f"model.{n}": t for n, t in state_dict.items()}, "hyper_parameters": {"to": Path("/x")}}
    torch.save(content, tmp_path / "lightning.ckpt")
    assert same(tmp_path / "lightning.ckpt", model)


def sharded(folder, state_dict, suffix=".safetensors"):
    names = list(state_dict)
    parts = {"model-00001-of-00002": names[:9], "model-00002-of-00002": names[9:]}
    for part, held in parts.items():
        tensors = {name: state_dict[name] for name in held}
        file = folder / f"{part}{suffix}"
        safetensors.torch.save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    weight_map = {name: f"{part}{suffix}" for part, held in parts.items() for name in held}
    index = folder / f"{'model' if suffix == '.safetensors' else 'pytorch_model'}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_several_files_are_put_together(tmp_path, model, state_dict, suffix):
    index = sharded(tmp_path, state_dict, suffix)
    assert same(index, model)
    assert same(tmp_path, model)
    part = tmp_path / f"model-00002-of-00002{suffix}"
    assert f"one of several parts of a model; name the index {index} or the folder" in refused(part, UsageError)
    first = import_weights(index).sha256
    part.rename(tmp_path / "elsewhere")
    assert f"1 of its 2 files are missing: {part.name}" in refused(index)
    (tmp_path / "elsewhere").rename(part)
    assert import_weights(index).sha256 == first
    index.write_text("{")
    assert "is damaged: it has no weight_map" in refused(index)


def test_an_index_names_files_of_its_own_folder_only(tmp_path, state_dict):
    index = sharded(tmp_path, state_dict)
    index.write_text(json.dumps({"weight_map": {"a.b": "../secret.safetensors"}}))
    assert "is damaged" in refused(index)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "best.ckpt"])
def test_a_folder_with_one_file_of_weights(tmp_path, model, state_dict, name):
    (tmp_path / "README.md").write_text("a model")
    torch.save(state_dict, tmp_path / name)
    assert same(tmp_path, model)


def test_folders_without_one(tmp_path, state_dict, model):
    assert "holds no model.safetensors, no pytorch_model.bin or other weights" in refused(tmp_path, UsageError)
    (tmp_path / "model.onnx").write_bytes(b"")
    assert "(but model.onnx)" in refused(tmp_path, UsageError)
    for name in ("a.pth", "b.pth"):
        torch.save(state_dict, tmp_path / name)
    assert "holds 2 files of weights; name one: a.pth, b.pth" in refused(tmp_path, UsageError)
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text("{}")
    save_model(run / "model.safetensors", model)
    assert "is a run's folder already" in refused(run, UsageError)
    assert "there is no file" in refused(tmp_path / "none", UsageError)


# ---- what is not


def torchscript(path, model):
    if sys.version_info >= (3, 14):
        pytest.skip("TorchScript is not supported on Python 3.14 and newer")
    torch.jit.trace(model, torch.zeros(1, 3, 8, 8)).save(str(path))


def exported(path, model):
    torch.export.save(torch.export.export(model, (torch.zeros(1, 3, 8, 8),)), path)


def tarred(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))


def distributed(path):
    """As torch.distributed.checkpoint names its files."""
    path.mkdir()
    for name in (".metadata", "__0_0.distcp"):
        (path / name).touch()


OTHERS = {
    "jax.npz": (
        lambda path, model: np.savez(path, b=np.zeros(3)),
        r"NumPy archive \(.npz\).*timm.create_model",
    ),
    "one.npy": (lambda path, model: np.save(path, np.zeros(3)), "one NumPy array, no state dict; save"),
    "packed.pth.gz": (lambda path, model: path.write_bytes(gzip.compress(b"x")), "compressed with gzip; unpack it"),
    "page.pth": (lambda path, model: path.write_text("\n<!DOCTYPE html><html>404"), "a web page, not weights"),
    "pointer.safetensors": (
        lambda path, model: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
        "Git LFS pointer.*git lfs pull",
    ),
    "model.onnx": (
        lambda path, model: path.write_bytes(b"\x08\x0a\x12\x07pytorch"),
        r"ONNX file: .*\[model\] onnx = FILE",
    ),
    "onnx.pth": (lambda path, model: path.write_bytes(b"\x08\x0a\x12\x07pytorch"), "ONNX file"),
    "keras.h5": (lambda path, model: path.write_bytes(b"\x89HDF\r\n"), "HDF5"),
    "config.json": (lambda path, model: path.write_text("{}"), "is JSON, not weights; name the .safetensors"),
    "weights.msgpack": (lambda path, model: path.write_bytes(b"\x81\xa6"), "a Flax file, no state dict; export it"),
    "arrays.pth": (
        lambda path, model: torch.save({"a.b": np.zeros(3)}, path),
        r"holds NumPy arrays, not tensors .*torch.from_numpy",
    ),
    "empty.pth": (lambda path, model: path.touch(), r"is empty \(a failed download"),
    "weights.tar": (lambda path, model: tarred(path), r"is a tar archive; unpack it first"),
    "parts": (lambda path, model: distributed(path), r"torch.distributed; .* dcp_to_torch .*parts weights.pth"),
    "saved": (lambda path, model: (path.mkdir(), (path / "saved_model.pb").touch()), "a TensorFlow SavedModel; export"),
}


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and traces a check of shapes
@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_file_say_what_they_are(tmp_path, model, name):
    make, said = OTHERS[name]
    make(tmp_path / name, model)
    with pytest.raises(TestbedError, match=said) as raised:
        import_weights(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "said"), [(torchscript, "a TorchScript archive"), (exported, "program of torch.export")]
)
def test_programs_are_not_run_and_their_weights_can_be_taken_out_as_is_said(tmp_path, model, make, said, state_dict):
    path = tmp_path / "program.pt"
    make(path, model)
    refusal = refused(path)
    assert said in refusal
    assert "only if you trust it" in refusal
    loaded = torch.jit.load(path).state_dict() if make is torchscript else torch.export.load(path).state_dict
    assert loaded.keys() == model.state_dict().keys()


def test_types_that_hold_no_plain_weights_and_weights_that_are_no_numbers(tmp_path, state_dict):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({n: t.to(torch.float8_e4m3fn) for n, t in state_dict.items()}, path)
    assert "weights must be float32, float16 or bfloat16" in refused(path)
    broken = state_dict["mlp_head.1.bias"].clone()
    broken[3] = float("nan")
    safetensors.torch.save_file(state_dict | {"mlp_head.1.bias": broken}, path)
    assert "not finite (NaN or infinity), from a training that diverged?: mlp_head.1.bias" in refused(path)


def test_half_precision_is_told(tmp_path, state_dict):
    torch.save({n: t.bfloat16() for n, t in state_dict.items()}, tmp_path / "w.pth")
    row = next(row for row in import_weights(tmp_path / "w.pth").facts if row.key == "stored_as")
    assert (row.value, row.source, row.note) == ("bfloat16", "file", "widened to float32, exactly")


def test_arguments_that_would_read_files_are_not_taken_from_a_config(tmp_path, state_dict):
    pytest.importorskip("timm")
    torch.save(state_dict, tmp_path / "w.pth")
    for config, said in (
        (
            {"architecture": "vit_tiny_patch16_224", "model_args": {"checkpoint_path": "x.pth"}},
            "checkpoint_path is not",
        ),
        ({"architecture": "hf-hub:some/model"}, "architecture 'hf-hub:some/model' is not taken from a config.json"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert said in refused(tmp_path / "w.pth", UsageError)
