"""ONNX files of other tools: small graphs by hand, and what a file computes and names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from testbed.instrument.sites.catalogue import catalogue


def logits(session: Any, plain: bytes, images: NDArray) -> NDArray:
    """What the file's only output is for these images, by ONNX Runtime."""
    name = onnx.load_from_string(plain).graph.input[0].name
    found: NDArray = next(iter(session(plain)({name: images}).values()))
    return found


def site_names(plain: bytes, where: str = "activation") -> set[str]:
    """Human names of the sites that are recognised in the file."""
    return {site.name for site in catalogue(plain).recognised if site.where == where}


def file_of(folder: Path, content: bytes) -> Path:
    """A file in the folder with this content, be it ONNX or not."""
    file = folder / "some.onnx"
    file.write_bytes(content)
    return file


def by_hand(nodes: list[onnx.NodeProto], batch: str | int = "b", **weights: NDArray) -> bytes:
    """A file of these nodes, from x (b, 4) to y (b, 4)."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "by hand", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def torch_logits(model: nn.Module, images: NDArray) -> NDArray:
    """What torch computes."""
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def site_values(session: Any, plain: bytes, images: NDArray, sites: Any) -> dict[str, NDArray]:
    """What an engine computes at these sites' tensors."""
    proto = onnx.load_from_string(plain)
    known = {output.name for output in proto.graph.output}
    for site in sites:
        if site.tensor not in known:
            proto.graph.output.append(helper.make_tensor_value_info(site.tensor, TensorProto.FLOAT, None))
    found = session(proto.SerializeToString())({proto.graph.input[0].name: images})
    return {site.name: found[site.tensor] for site in sites}


def scrambled(plain: bytes) -> tuple[bytes, dict[str, str]]:
    """Every tensor and weight renamed to a number, metadata gone; and the new names by the old."""
    proto = onnx.load_from_string(plain)
    graph, names = proto.graph, {"": ""}

    def new(name: str) -> str:
        return names.setdefault(name, f"t{len(names)}")

    for node in graph.node:
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
        node.name = ""
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = new(value.name)
    del graph.value_info[:], proto.metadata_props[:]
    return proto.SerializeToString(), names


def assert_same_values(
    computed: Mapping[str, NDArray], wanted: Mapping[str, torch.Tensor], images: int, turned: tuple[str, ...]
) -> None:
    """Each site's values, of so many images, are the library's own. turned: ends of names that some files hold transposed."""
    for name, have in computed.items():
        want = wanted[name].detach().numpy()
        if name.endswith(turned) and have.shape != want.shape:
            want = want.swapaxes(-1, -2)
        assert have.size == want.size, name
        flat, atol = (images, -1), 1e-5 * max(1, np.abs(want).max())
        np.testing.assert_allclose(have.reshape(flat), want.reshape(flat), rtol=0, atol=atol, err_msg=name)
