"""Which file holds the weights, and what kind of file it is, from its first bytes: whatever its name says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.file_kinds import other_format, start_of, unusable
from testbed.core.folder.parsing import json_value
from testbed.core.folder.run_files import WEIGHTS
from testbed.core.folder.runfolder import MANIFEST
from testbed.models.importers.facts.ledger import INSTEAD
from testbed.models.keys import listed

INDEX = ".index.json"  # of weights that are split into several files
_IN_A_FOLDER = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_INSTEAD_OF = {
    "a GGUF file (quantised weights)": "name the original .safetensors or .pth",
    "one NumPy array": "save model.state_dict() with torch.save",
}
_ON_A_TRUSTED_MACHINE = "(that runs its code: only if you trust it)"


@dataclass(frozen=True)
class WeightsFile:
    """``shards`` are the files that hold the tensors: the one itself, or those that an index names."""

    path: Path
    shards: tuple[Path, ...]


def weights_file(path: Path) -> WeightsFile:
    """The weights in a file, an index of several, or a folder (Hugging Face's ``save_pretrained``, timm's).

    Raises UsageError where there is none or several, TestbedError for an index that is damaged or lacks files.
    """
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.name.endswith(INDEX):
        return WeightsFile(path, _shards(path))
    for index in sorted(path.parent.glob(f"*{INDEX}")):
        if path in _named_in(index):
            raise UsageError(f"{path} is one of several parts of a model; name the index {index} or the folder")
    return WeightsFile(path, (path,))


def _in_folder(folder: Path) -> Path:
    if (folder / MANIFEST).is_file() and (folder / WEIGHTS).is_file():
        raise UsageError(f"{folder} is a run's folder already; use it with --run, or name {folder}/model.safetensors")
    known = [folder / name for name in _IN_A_FOLDER if (folder / name).is_file()]
    if known:
        return known[0]
    others = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    if len(others) == 1:
        return others[0]
    if others:
        raise UsageError(f"{folder} holds {len(others)} files of weights; name one: {listed(f.name for f in others)}")
    if (folder / ".metadata").is_file() or any(folder.glob("*.distcp")):
        raise TestbedError(
            f"{folder} is a checkpoint of torch.distributed; put it into one file:"
            f" python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth"
        )
    if (folder / "saved_model.pb").is_file():
        raise TestbedError(f"{folder} is a TensorFlow SavedModel; {INSTEAD}")
    foreign = sorted(file.name for file in folder.iterdir() if file.suffix in (".onnx", ".h5", ".msgpack", ".npz"))
    but = f" (but {listed(foreign)})" if foreign else ""
    raise UsageError(f"{folder} holds no {', no '.join((_IN_A_FOLDER[0], _IN_A_FOLDER[2]))} or other weights{but}")


def _shards(index: Path) -> tuple[Path, ...]:
    shards = _named_in(index)
    if not shards:
        raise TestbedError(f"{index} is damaged: it has no weight_map of file names; fetch it again")
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise TestbedError(f"{index}: {len(missing)} of its {len(shards)} files are missing: {listed(missing)}")
    return shards


def _named_in(index: Path) -> tuple[Path, ...]:
    """The files that an index names, all in its own folder; none where it is damaged."""
    try:
        names = dict.fromkeys(json_value(index.read_text())["weight_map"].values())
        return tuple(index.parent / name for name in names if Path(name).name == name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def refuse_other_kinds(path: Path) -> None:
    """Raises TestbedError, saying what to do, for a file that is known to hold no state dict; nothing in it is run.

    Not for safetensors files: they begin with a number, whose bytes can be any.
    """
    if reason := unusable(path, "weights"):
        raise TestbedError(f"{path} {reason}")
    start = start_of(path)
    if start[:1] == b"{" and path.suffix == ".json":
        raise TestbedError(f"{path} is JSON, not weights; name the .safetensors or .pth beside it, or the folder")
    if start.startswith(b"PK") and (what := _archive(path)):
        raise TestbedError(f"{path} {what}")
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and (b"pytorch" in start or b"onnx" in start)):
        raise UsageError(f"{path} is an ONNX file: it needs no import; name it in the spec: [model] onnx = FILE")
    if other := other_format(path):
        raise TestbedError(f"{path} is {other}, no state dict; {_INSTEAD_OF.get(other, INSTEAD)}")


def _archive(path: Path) -> str | None:
    """What a ZIP archive is, unless it is a state dict that ``torch.save`` wrote."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except (BadZipFile, OSError):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return (
            "is a NumPy archive (.npz), as JAX writes; timm reads JAX's: model = timm.create_model(NAME,"
            " checkpoint_path=FILE), then torch.save(model.state_dict(), 'weights.pth')"
        )
    if any(name.endswith(("/constants.pkl", "/bytecode.pkl")) for name in names):
        return (
            "is a TorchScript archive, which holds code and is not run; take the weights alone out of it:"
            f" torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth') {_ON_A_TRUSTED_MACHINE}"
        )
    if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
        return (
            "is a program of torch.export; take the weights alone out of it:"
            f" torch.save(torch.export.load(FILE).state_dict, 'weights.pth') {_ON_A_TRUSTED_MACHINE}"
        )
    if not any(name.endswith("data.pkl") for name in names):
        return f"is a ZIP archive of {listed(names)}, not weights; unpack it and name the file of weights"
    return None
