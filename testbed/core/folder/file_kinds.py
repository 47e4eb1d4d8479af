"""What a file is, from its first bytes, where it is not what was asked for: so that a message can say what to do."""

from __future__ import annotations

from pathlib import Path

_FETCH_AGAIN = "(a failed download?); fetch it again"
_UNUSABLE = {  # first bytes -> what it is, and what to do, whatever was asked for
    b"\x1f\x8b": "is compressed with gzip; unpack it first (gunzip)",
    b"\xfd7zXZ": "is compressed with xz; unpack it first (unxz)",
    b"BZh": "is compressed with bzip2; unpack it first (bunzip2)",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first (unzstd)",
    b"version https://git-lfs": "is a Git LFS pointer, not {wanted}; get the file itself with `git lfs pull`",
    b"<!doctype": f"is a web page, not {{wanted}} {_FETCH_AGAIN}",
    b"<html": f"is a web page, not {{wanted}} {_FETCH_AGAIN}",
}
_FORMATS = (  # place of the bytes, the bytes, what it is
    (0, b"\x89HDF", "an HDF5 file (Keras or TensorFlow)"),
    (0, b"GGUF", "a GGUF file (quantised weights)"),
    (0, b"\x93NUMPY", "one NumPy array"),
    (0, b"ftrt", "a TensorRT engine, built for one GPU from an ONNX file"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (4, b"ORTM", "a file in ONNX Runtime's own format (.ort), made from an ONNX file"),
)
_BY_NAME = {
    ".msgpack": "a Flax file",
    ".tflite": "a TensorFlow Lite file",
    ".pb": "a TensorFlow graph",
    ".engine": "a TensorRT engine, built for one GPU from an ONNX file",
    ".plan": "a TensorRT engine, built for one GPU from an ONNX file",
}
_TAR = (257, b"ustar")


def start_of(path: Path) -> bytes:
    """Enough of the file to know it by."""
    with path.open("rb") as file:
        return file.read(512)


def is_safetensors(path: Path) -> bool:
    """An 8-byte length, then a JSON object."""
    start = start_of(path)
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def unusable(path: Path, wanted: str) -> str | None:
    """What the file is and what to do, where it is empty, packed or no model at all; None where it may be one.

    ``wanted`` is what was asked for, for the message: "weights". Not for safetensors files, which begin with a number.
    """
    start = start_of(path)
    if not start:
        return f"is empty {_FETCH_AGAIN}"
    for magic, problem in _UNUSABLE.items():
        if start.startswith(magic) or (magic[:1] == b"<" and _text_start(start).startswith(magic)):
            return problem.format(wanted=wanted)
    if _text_start(start).startswith(b"<?xml") and b"<net" not in start:
        return f"is XML, not {wanted} {_FETCH_AGAIN}"
    if start[_TAR[0] :].startswith(_TAR[1]):
        return "is a tar archive; unpack it first (tar -xf) and name the file in it"
    return None


def other_format(path: Path) -> str | None:
    """Which format of models or numbers the file has, of those that are neither ONNX nor weights of PyTorch."""
    start = start_of(path)
    if _text_start(start).startswith(b"<?xml") and b"<net" in start:
        return "an OpenVINO model (IR), made from another file"
    known = (kind for offset, magic, kind in _FORMATS if start[offset:].startswith(magic))
    return next(known, _BY_NAME.get(path.suffix))


def _text_start(start: bytes) -> bytes:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
