"""Protected files written by hand: clips behind sites, and checks whose alarms go along the network to `detected`.

Nothing of `testbed protect` is used, so that what runs its files is tested against the contract alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.core.protected import DETECTED, FLAG, PREFIX, PROTECTION
from testbed.data import load
from testbed.engines.runner import EngineRequest, open_engine
from testbed.export.precision import cast_model
from testbed.export.target import export_target
from testbed.models.presets import preset
from testbed.models.runs import DataSource, ModelRun, write_model_run
from testbed.models.vit import ViT
from testbed.train import recipe, train
from tests.support.campaigns import tiny_values

CHECKED = ("block.0.mlp.fc1", "block.0.mlp.residual")
CLIPPED = "block.0.mlp.gelu"


def protect(
    plain: bytes, *, clips: Mapping[str, float] | None = None, checks: Mapping[str, float] | None = None
) -> bytes:
    """An fp32 file with clips to ± a bound behind sites, and checks that the sum of a site's magnitudes is at most a
    bound."""
    proto = onnx.load_from_string(plain)
    for site, bound in (clips or {}).items():
        _clip(proto, site, bound)
    flags = [_check(proto, number, site, bound) for number, (site, bound) in enumerate((checks or {}).items())]
    if flags:
        _detected(proto, flags[-1])
    passes = {"range": dict(clips or {}), "checksum": dict(checks or {})}
    props = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(proto, props | {PROTECTION: json.dumps(passes)})
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def bounds_of(
    plain: bytes, sites: Sequence[str], images: NDArray[np.float32], margin: float = 1.05
) -> dict[str, float]:
    """Largest sum of a site's magnitudes over some images, times the margin."""
    proto = onnx.load_from_string(plain)
    proto.graph.output.extend(value for value in proto.graph.value_info if value.name in sites)
    with open_engine("ort-cpu", EngineRequest.of_bytes(proto.SerializeToString(), "bounds")) as runner:
        outputs = runner.run({proto.graph.input[0].name: images})
    return {site: margin * float(np.abs(outputs[site]).sum(axis=(1, 2)).max()) for site in sites}


def tiny_model() -> ViT:
    """The model of the tiny campaign, trained."""
    values = tiny_values()["model"]
    config = preset(values["preset"], **values["overrides"])
    return train(config, load("digits"), recipe(values["recipe"], **values["training"]), seed=42, progress=False).model


def plain_files(model: ViT, folder: Path) -> dict[str, bytes]:
    """Precision -> plain file."""
    plain = export_target(model, "model", folder / "plain.onnx")
    return {
        "fp32": plain.SerializeToString(deterministic=True),
        "fp16": cast_model(plain, "fp16").SerializeToString(deterministic=True),
    }


def protected_run(path: Path, model: ViT, files: Mapping[str, bytes]) -> ModelRun:
    """A folder of a protected model, as `testbed protect` writes it."""
    return write_model_run(
        path,
        model,
        stage="protect",
        name="tiny-protected",
        made_from={"model": "by hand"},
        data=DataSource("digits"),
        protected=files,
    )


def spec_values(run: Path, **changes: Any) -> dict[str, Any]:
    """A small campaign on the model of a run folder: activations of sites and checks, and weights."""
    values = tiny_values()
    values["model"] = {"run": str(run)}
    del values["data"]
    values["faults"] = [
        {
            "target": "model",
            "where": "activation",
            "sites": ["*.mlp.*", "head", "protect.*"],
            "bits": [0, 12, 30, 31],
            "per_stratum": 8,
        },
        {
            "target": "model",
            "where": "weight",
            "sites": ["*.fc1.weight", "head.bias"],
            "bits": [3, 30, 31],
            "per_stratum": 3,
        },
    ]
    return values | changes


def foreign(plain: bytes) -> bytes:
    """The same file as another exporter might have written it: tensors are numbered, and nothing says whose it is."""
    proto = onnx.load_from_string(plain)
    graph = proto.graph
    made = [name for node in graph.node for name in node.output]
    kept = {value.name for value in (*graph.output, *graph.input)}
    names = {name: f"t{number}" for number, name in enumerate(made) if name not in kept}
    names |= {tensor.name: f"w{number}" for number, tensor in enumerate(graph.initializer)}
    for node in graph.node:
        node.name = ""
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for named in (*graph.initializer, *graph.value_info):
        named.name = names.get(named.name, named.name)
    del proto.metadata_props[:]
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _node(proto: ModelProto, tensor: str) -> int:
    return next(index for index, node in enumerate(proto.graph.node) if tensor in node.output)


def _insert(proto: ModelProto, after: str, nodes: Sequence[NodeProto]) -> None:
    place = _node(proto, after) + 1
    for number, node in enumerate(nodes):
        proto.graph.node.insert(place + number, node)


def _constant(proto: ModelProto, name: str, values: Any, dtype: Any = np.float32) -> str:
    proto.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name


def _declare(proto: ModelProto, name: str, shape: Sequence[int | str]) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _clip(proto: ModelProto, site: str, bound: float) -> None:
    name = f"{PREFIX}range.{site}"
    for node in proto.graph.node:
        node.input[:] = [name if taken == site else taken for taken in node.input]
    for value in proto.graph.output:
        if value.name == site:
            proto.graph.value_info.append(value)
            value.name = name
    low, high = _constant(proto, f"{name}.low", -bound), _constant(proto, f"{name}.high", bound)
    _insert(proto, site, [helper.make_node("Clip", [site, low, high], [name], name=name)])
    value = next(value for value in proto.graph.value_info if value.name == site)
    copied = proto.graph.value_info.add()
    copied.CopyFrom(value)
    copied.name = name


def _check(proto: ModelProto, number: int, site: str, bound: float) -> str:
    """The name of the flag: the largest of this check's alarm and of those before."""
    name, flag = f"{PREFIX}checksum.{site}", f"{FLAG}{number}"
    axes = _constant(proto, f"{name}/axes", [1, 2], np.int64)
    flat = _constant(proto, f"{name}/flat", [-1, 1], np.int64)
    limit = _constant(proto, f"{name}.bound", [bound])
    own = flag if number == 0 else f"{name}.alarm"
    nodes = [
        helper.make_node("Abs", [site], [f"{name}/magnitudes"]),
        helper.make_node("ReduceSum", [f"{name}/magnitudes", axes], [f"{name}/sum"], keepdims=1),
        helper.make_node("Reshape", [f"{name}/sum", flat], [name]),
        helper.make_node("LessOrEqual", [name, limit], [f"{name}/inside"]),  # not of a NaN
        helper.make_node("Not", [f"{name}/inside"], [f"{name}/outside"]),
        helper.make_node("Cast", [f"{name}/outside"], [own], to=TensorProto.FLOAT),
    ]
    if number:
        nodes.append(helper.make_node("Max", [f"{FLAG}{number - 1}", own], [flag]))
    _insert(proto, site, nodes)
    for tensor in dict.fromkeys((name, own, flag)):
        _declare(proto, tensor, ["batch", 1])
    return flag


def _detected(proto: ModelProto, flag: str) -> None:
    half = _constant(proto, f"{PREFIX}detected.half", [0.5])
    rows = _constant(proto, f"{PREFIX}detected/rows", [-1], np.int64)
    proto.graph.node.extend(
        [
            helper.make_node("LessOrEqual", [flag, half], [f"{PREFIX}detected/quiet"]),
            helper.make_node("Not", [f"{PREFIX}detected/quiet"], [f"{PREFIX}detected/alarm"]),
            helper.make_node("Reshape", [f"{PREFIX}detected/alarm", rows], [DETECTED]),
        ]
    )
    batch = proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param
    proto.graph.output.append(helper.make_tensor_value_info(DETECTED, TensorProto.BOOL, [batch]))
