"""Weights are struck in place only where that is the same as a fault in the file; what cannot be struck is left out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from testbed.campaign.evaluate.weights.in_place import COPIED, HALF_APPLIED, NO_EFFECT, WeightGate, weight_gate
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import NamedImages
from testbed.core.errors import EngineError
from testbed.core.fault import masks_for
from testbed.core.folder.files import sha256_bytes
from testbed.core.site import Site, SiteTable
from testbed.engines.runner import EngineRequest, Runner, WeightInjector, faulty_weight, open_engine
from testbed.semantics import as_words, corrupt
from tests.support.wrapped_runners import PassingRunner

IMAGES = np.random.default_rng(3).normal(size=(8, 4, 6)).astype(np.float32)
NAMES = {TensorProto.FLOAT: "fp32", TensorProto.INT8: "int8", TensorProto.INT32: "int32"}


@cache
def quantised() -> bytes:
    """x (B, 4, 6) -> int8 product -> Reshape -> int8 product -> (B, 24), as a quantiser leaves it: the product's output
    and the reshaped tensor each have a scale and a zero point, of equal values; one weight is used by no node."""
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "w": rng.integers(-90, 90, (6, 6)).astype(np.int8),
        "v": rng.integers(-90, 90, (24, 24)).astype(np.int8),
        "shape": np.array([-1, 24]),
        "bias": rng.normal(size=24).astype(np.float32),
        "unused": rng.normal(size=24).astype(np.float32),
    }
    for name, scale, zero in (
        ("x", 0.02, 3),
        ("w", 0.01, 0),
        ("p", 0.05, -5),
        ("c", 0.05, -5),
        ("v", 0.01, 0),
        ("y", 0.2, 1),
    ):
        values |= {f"{name}.scale": np.float32(scale), f"{name}.zero_point": np.int8(zero)}

    def quantise(name: str, into: str) -> onnx.NodeProto:
        return helper.make_node("QuantizeLinear", [name, f"{into}.scale", f"{into}.zero_point"], [f"{into}/q"])

    def dequantise(name: str, of: str) -> onnx.NodeProto:
        return helper.make_node("DequantizeLinear", [name, f"{of}.scale", f"{of}.zero_point"], [f"{of}/d"])

    nodes = [
        *(quantise("image", "x"), dequantise("x/q", "x"), dequantise("w", "w")),
        *(helper.make_node("MatMul", ["x/d", "w/d"], ["product"]), quantise("product", "p"), dequantise("p/q", "p")),
        *(helper.make_node("Reshape", ["p/d", "shape"], ["flat"]), quantise("flat", "c"), dequantise("c/q", "c")),
        *(dequantise("v", "v"), helper.make_node("MatMul", ["c/d", "v/d"], ["second"])),
        *(quantise("second", "y"), dequantise("y/q", "y"), helper.make_node("Add", ["y/d", "bias"], ["logits"])),
        *(helper.make_node("Mul", ["unused", "unused"], ["nowhere"]),),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 4, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 24])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def sites() -> tuple[Site, ...]:
    stored = onnx.load_from_string(quantised()).graph.initializer
    return tuple(Site(t.name, "weight", tuple(t.dims), NAMES[t.data_type]) for t in stored if t.data_type in NAMES)


def rebuild(model: bytes, backend: str = "ort-cpu") -> Runner:
    request = EngineRequest(model, sha256_bytes(model), "id", precision="int8", mutable_weights=True, max_batch=8)
    return open_engine(backend, request)


@pytest.fixture
def engine() -> Iterator[CampaignEngine]:
    with rebuild(quantised()) as runner:
        yield bench_of(runner)


def bench_of(runner: Runner) -> CampaignEngine:
    images = NamedImages(tuple(map(str, range(8))), np.zeros(8, np.int64), np.zeros(8, np.int16), np.arange(8))
    table = SiteTable("model", "id", "op", sites())
    return CampaignEngine("model", "weight", table, runner, lambda rows: IMAGES[rows], "image", "logits", images, 8)


def gated(engine: CampaignEngine) -> WeightGate:
    return weight_gate(engine, sites(), quantised(), rebuild, seed=1)


def test_every_tensor_is_told_as_it_is_done(engine: CampaignEngine) -> None:
    seen: list[int] = []
    found = weight_gate(engine, sites(), quantised(), rebuild, seed=1, advance=seen.append)
    assert sum(seen) == len(sites()) == found.tensors


def reasons(found: WeightGate) -> dict[str, str]:
    return {left_out.site: left_out.reason for left_out in found.left_out}


def by_file(site: Site, bit: int) -> NDArray[np.float32]:
    """By ONNX Runtime itself, without any optimisation, from the edited file."""
    proto = onnx.load_from_string(quantised())
    (stored,) = (t for t in proto.graph.initializer if t.name == site.tensor)
    array = np.array(numpy_helper.to_array(stored), order="C")
    masks = (np.array([mask], np.uint32) for mask in masks_for("flip", site.format, bit))
    as_words(array.reshape(-1))[:1] = as_words(corrupt(array.reshape(-1)[:1], *masks))
    stored.CopyFrom(numpy_helper.from_array(array, site.tensor))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"image": IMAGES})
    return outputs


def test_a_tensor_whose_faults_would_be_half_applied_is_left_out(engine: CampaignEngine) -> None:
    found = reasons(gated(engine))
    pair = {f"{name}.{part}" for name in ("p", "c") for part in ("scale", "zero_point")}
    assert {name for name, reason in found.items() if reason == HALF_APPLIED} == pair
    assert {name for name, reason in found.items() if reason == NO_EFFECT} == {"unused"}
    assert set(found) == pair | {"unused"}


def test_what_is_kept_acts_as_the_edited_file_and_what_is_left_out_does_not(engine: CampaignEngine) -> None:
    """Every bit of the first element, against the file's own arithmetic: steps of an integer may round otherwise in a
    fused engine, so the bound is one step of the output."""
    left_out, wrong = reasons(gated(engine)), set()
    assert isinstance(engine.runner, WeightInjector)
    for site in sites():
        for bit in range(site.format.bits - 1):
            if site.name.endswith("scale") and bit > 26:
                continue  # clipped everywhere: nothing is told apart
            with faulty_weight(engine.runner, site.tensor, 0, masks_for("flip", site.format, bit)):
                if np.abs(engine.outputs() - by_file(site, bit)).max() > 0.2001:
                    wrong.add(site.name)
    assert wrong == {name for name, reason in left_out.items() if reason == HALF_APPLIED}


class Copying(PassingRunner):
    """An engine that has its own copy of a weight: what is changed outside is not what it computes with."""

    def __init__(self, runner: Any, copied: str) -> None:
        super().__init__(runner)
        self.copied = copied

    def weight(self, tensor: str) -> NDArray:
        weight = super().weight(tensor)
        return weight.copy() if tensor == self.copied else weight


@pytest.mark.parametrize("copied", ["bias", "w", "x.scale", "y.zero_point"])
def test_a_weight_that_the_engine_copied_is_left_out(engine: CampaignEngine, copied: str) -> None:
    engine.runner = Copying(engine.runner, copied)
    assert {name for name, reason in reasons(gated(engine)).items() if reason == COPIED} == {copied}


class Forgetful(Copying):
    """An engine that keeps something of every run."""

    def run(self, feeds: Any) -> dict[str, NDArray]:
        self.runs = getattr(self, "runs", 0) + 1
        return {name: value + np.float32(1e-3) * self.runs for name, value in super().run(feeds).items()}


def test_an_engine_that_is_not_restored_is_refused(engine: CampaignEngine) -> None:
    assert len(engine.golden) == 8  # run before the engine begins to forget
    engine.runner = Forgetful(engine.runner, "")
    with pytest.raises(EngineError, match="not restored after weight faults were undone"):
        gated(engine)


def test_every_tensor_at_risk_is_compared_with_a_rebuilt_engine(engine: CampaignEngine) -> None:
    found = gated(engine)
    assert (found.tensors, found.compared) == (len(sites()), len(sites()))  # two plain ones are in the sample


def test_a_site_left_out_is_selected_by_no_pattern() -> None:
    table = SiteTable("model", "id", "op", sites()).without(["p.scale"])
    assert "p.scale" not in {site.name for site in table.select("weight", ["*"])}
    assert "p.scale" in {site.name for site in table}  # and keeps its place in the table
