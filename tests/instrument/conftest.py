"""Small models of every kind that can be exported, each exported once: plain ONNX, site table, twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from testbed.core.site import SiteTable
from testbed.export.onnx import export_onnx
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from testbed.models.branches import LAYER_SCALE_START
from testbed.models.config import ViTConfig
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT

_BASE: dict[str, Any] = {"image": 4, "patch": 2, "channels": 1, "width": 8, "classes": 3, "head_width": 4}
CONFIGS = {
    "pre-norm, unequal blocks": ViTConfig(heads=(2, 1), mlp=(8, 6), qkv_bias=True, patch_norm=True, **_BASE),
    "post-norm, conv, sinusoidal, mean": ViTConfig(
        heads=(2,),
        mlp=(8,),
        norm_order="post",
        patchify="conv",
        position="sinusoidal",
        pooling="mean",
        final_norm="none",
        **_BASE,
    ),
    "differential, 2d, mean of patches": ViTConfig(
        heads=(2,),
        mlp=(8,),
        attention="differential",
        position="2d",
        pooling="mean_patches",
        final_norm="tokens",
        **_BASE,
    ),
    "registers, layer scale, SwiGLU, normed queries and keys": ViTConfig(
        heads=(2,),
        mlp=(8,),
        registers=2,
        position_on="patches",
        layer_scale=True,
        gated_mlp=True,
        activation="silu",
        qk_norm=True,
        **_BASE,
    ),
    "two heads, norm before the blocks, no patch bias": ViTConfig(
        heads=(2,),
        mlp=(8,),
        distillation="head",
        final_norm="tokens",
        embed_norm=True,
        patch_bias=False,
        patchify="conv",
        **_BASE,
    ),
    "pruned, no CLS, no positions": ViTConfig(
        heads=(0, 1), mlp=(8, 0), cls_token=False, position="none", pooling="mean", **_BASE
    ),
}


@dataclass
class Exported:
    """A model and its files. ``example``: three inputs of it."""

    module: torch.nn.Module
    example: NDArray[np.float32]
    input_name: str
    plain: bytes

    @cached_property
    def table(self) -> SiteTable:
        return site_table(self.plain, "model")

    @cached_property
    def twin(self) -> bytes:
        return instrument(self.plain, self.table).SerializeToString()

    @cached_property
    def probe(self) -> Session:
        """The twin with every site, before and after its port, as further outputs."""
        proto = onnx.load_from_string(self.twin)
        known = {output.name for output in proto.graph.output}
        for site in self.table.ports:
            for name in {f"{site}/live", site} - known:
                value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *self.table[site].shape])
                proto.graph.output.append(value)
        return Session(proto.SerializeToString())

    def feeds(self, ports: PortFeed | None = None, rows: int = 3) -> dict[str, NDArray]:
        return {self.input_name: self.example[:rows]} | (ports.as_inputs(self.table) if ports else {})


class Session:
    """ONNX Runtime as it comes; ``optimised`` False runs the graph as it is written."""

    def __init__(self, model: bytes, optimised: bool = True) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, feeds: dict[str, NDArray]) -> dict[str, NDArray]:
        return dict(zip(self.outputs, self._session.run(None, feeds), strict=True))


@pytest.fixture(scope="session")
def session() -> type[Session]:
    return Session


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """By name of ``CONFIGS``; "attention" is the first one's."""
    made: dict[str, Exported] = {}

    def exported(name: str) -> Exported:
        if name not in made:
            torch.set_num_threads(1)
            torch.manual_seed(len(made))
            part = name == "attention"
            model = ViT(CONFIGS[name if not part else next(iter(CONFIGS))]).eval()
            for parameter in model.parameters():
                if parameter.dim() == 1 and parameter.allclose(
                    torch.tensor(LAYER_SCALE_START)
                ):  # so small that no fault would show
                    torch.nn.init.ones_(parameter)
            module = subnetwork(model, "attention") if part else model
            shape = (3, 5, 8) if part else (3, 1, 4, 4)
            example = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            file = tmp_path_factory.mktemp("onnx") / "plain.onnx"
            input_name = "hidden" if part else "image"
            export_onnx(module, torch.from_numpy(example), file, input_name=input_name)
            made[name] = Exported(module, example, input_name, Path(file).read_bytes())
        return made[name]

    return exported


@pytest.fixture(scope="session", params=[*CONFIGS, "attention"])
def exported(request: pytest.FixtureRequest, export: Callable[[str], Exported]) -> Exported:
    return export(request.param)


@pytest.fixture(scope="session")
def first(export: Callable[[str], Exported]) -> Exported:
    return export(next(iter(CONFIGS)))
