"""ONNX exports, each made once for all processes of the tests.

An export of a small model takes a second or more, nearly all of it in the exporter itself, and most tests export the same
few models. Every model is really exported by the first test that asks for it; whoever exports it again, with the same
weights and options, is given the files of that export. (A test that changes the code of a model, and not its attributes,
has to call ``torch.onnx.export.__wrapped__``.)
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.once import made_once


@contextmanager
def remembered_exports(folder: Path) -> Iterator[None]:
    """Meanwhile, in this process, ``torch.onnx.export`` takes what is in the folder."""
    import torch

    export = torch.onnx.export

    @functools.wraps(export)
    def remembered(model: Any, args: Any = (), f: Any = None, **options: Any) -> Any:
        name = "model.onnx" if f is None else Path(f).name
        key = export_key(model, args, name, options)
        if key is None:
            return export(model, args, f, **options)
        made = made_once(folder / key, lambda path: _export_into(path, name, f is None, export, model, args, options))
        if f is None:
            return _program((made / name).read_bytes())
        for file in made.iterdir():  # weights may lie beside the graph
            shutil.copy(file, Path(f).with_name(file.name))
        return None

    torch.onnx.export = remembered
    try:
        yield
    finally:
        torch.onnx.export = export


def export_key(*request: Any) -> str | None:
    """Digest of everything in the request, weights included; None where it cannot be written down."""
    file = io.BytesIO()
    try:
        _Pickler(file).dump(request)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
        return None
    return hashlib.sha256(file.getvalue()).hexdigest()


class _Pickler(pickle.Pickler):
    """Writes equal objects alike, whether or not they are the same one."""

    fast = True

    def persistent_id(self, thing: Any) -> Any:
        import torch

        if isinstance(thing, torch.Tensor):
            content = thing.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return type(thing).__name__, str(thing.dtype), tuple(thing.shape), hashlib.sha256(content).hexdigest()
        if type(thing).__module__.startswith("torch.export"):  # the name and the bounds of a dimension
            return type(thing).__name__, repr(sorted(vars(thing).items()))
        return None


def _export_into(
    folder: Path, name: str, in_memory: bool, export: Callable[..., Any], model: Any, args: Any, options: dict[str, Any]
) -> None:
    folder.mkdir(exist_ok=True)
    if in_memory:
        (folder / name).write_bytes(export(model, args, **options).model_proto.SerializeToString())
    else:
        export(model, args, str(folder / name), **options)


def _program(content: bytes) -> Any:
    """As much of an exported program as the testbed takes of it."""
    import onnx

    return SimpleNamespace(model_proto=onnx.load_from_string(content))
