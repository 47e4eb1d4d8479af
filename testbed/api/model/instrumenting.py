"""Fault ports for an ONNX file of whatever origin, from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from testbed.api.model.results import InstrumentedFiles


def instrument_model(
    file: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    sites: Sequence[str] = ("*",),
    ports: Literal["gated_replace", "xor", "op"] = "gated_replace",
    image_size: int | None = None,
    output: str | None = None,
) -> InstrumentedFiles:
    """Give an ONNX file of a Vision Transformer a fault port at each site: write NAME.twin.onnx and NAME.sites.json.

    Args:
        file: The ONNX file, of `Model.export` or of any other exporter.
        to: Folder for the files. Default: beside the file.
        sites: Patterns of site names; `"!PATTERN"` leaves sites out, and "all" takes every tensor, recognised or not.
        ports: How values are changed: in portable operators, by bit operators (opset 26), by a custom operator.
        image_size: Height and width of the images, where the file leaves them open and its weights do not say them.
        output: The one output to keep of several; default: all.

    Returns:
        The files, the sites, and what was changed in the file.

    Raises:
        UsageError: For a file in which no attention is recognised, and for patterns that fit nothing, or an output that the
            file does not have.
        TestbedError: For a file that is no ONNX model, or that ONNX Runtime refuses.

    Example:
        ```py
        made = testbed.instrument_model("runs/digits/model.onnx", "twins", sites=["block.0.*"])
        print(made.sites[["name", "shape"]])
        ```
    """
    from testbed.instrument.twin import make_twin

    path = Path(file)
    folder = path.parent if to is None else Path(to)
    return InstrumentedFiles(make_twin(path, folder, tuple(sites), ports, image_size, output))
