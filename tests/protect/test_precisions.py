"""Protection in fp16 and int8: checks compute in fp32, thresholds allow for rounding, and what is not covered is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from testbed.core.fault import Masks
from testbed.core.protected import DETECTED, PREFIX
from testbed.export.precision import Calibration, cast_model
from testbed.export.target import export_target
from testbed.instrument.table import site_table
from testbed.models.vit import ViT
from testbed.protect.build import Protected, protect
from testbed.protect.canaries.fly import fly
from testbed.protect.contract import CalibrationSet
from testbed.protect.ensure import optimised_by_onnxruntime
from testbed.protect.graph import GraphEditor
from testbed.protect.named import passes_named
from testbed.protect.observe import run_all
from testbed.protect.passes.checksum import ChecksumPass
from testbed.protect.passes.duplicate import DuplicatePass, copies
from testbed.testing import InstrumentedModel
from tests.protect.conftest import some_images

PASSES = ("range", "checksum", "nonfinite")
ENGINES = ("ort-cpu", "openvino")


@pytest.fixture(scope="module")
def narrow(plain: ModelProto, small_model: ViT, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProto]:
    """Precision -> plain file."""
    file = tmp_path_factory.mktemp("int8") / "plain.onnx"
    settings = Calibration(64)
    int8 = export_target(small_model, "model", file, precision="int8", images=some_images(64, 1), calibration=settings)
    return {"fp16": cast_model(plain, "fp16"), "int8": int8}


@pytest.fixture(scope="module")
def protected(narrow: dict[str, ModelProto]) -> dict[str, Protected]:
    return {
        precision: protect(proto, passes_named(PASSES, {}), CalibrationSet(some_images(96, 1), ENGINES, precision))
        for precision, proto in narrow.items()
    }


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("engine", ENGINES)
def test_no_alarm_is_false_and_every_check_is_seen(
    narrow: dict[str, ModelProto], protected: dict[str, Protected], precision: str, engine: str
) -> None:
    file = protected[precision]
    images = some_images(64, 2)
    before = run_all(narrow[precision], images, engine, precision)
    after = run_all(file.proto, images, engine, precision)
    name = narrow[precision].graph.output[0].name
    assert not after[DETECTED].any()
    assert (after[name].argmax(1) == before[name].argmax(1)).mean() > 0.9
    canary = fly(file.proto, file.applied, some_images(1, 4), engine, precision)
    weights = [s for s in site_table(file.proto.SerializeToString(), "model") if s.name.endswith("fc1.weight")]
    assert canary.activations >= 30
    if precision == "fp16":
        assert canary.unseen == ()
        assert canary.weights >= len(weights) > 0
    else:
        assert canary.weights + len(canary.unseen) >= len(weights) > 0


def test_every_site_is_covered_or_told(protected: dict[str, Protected]) -> None:
    for precision, file in protected.items():
        sites = set(GraphEditor(file.proto).sites)
        checksum = next(done for done in file.applied if done.name == "checksum")
        covered = {site for place in checksum.places for site in place.covers}
        assert sites <= covered | set(checksum.left_out), precision
    guards, _, flags = protected["int8"].applied
    assert guards.left_out["block.0.attn.v"] == "its numbers are integers, which saturate where they are made"
    assert flags.left_out["norm"] == "its numbers are integers, which are all finite"
    assert "block.0.attn.k" in {place.name for place in guards.places}


@pytest.mark.parametrize("vote", [False, True])
def test_sites_keep_their_tensors_beside_copies(narrow: dict[str, ModelProto], vote: bool) -> None:
    """A copy rounds to integers, too; those are its own sites, not the model's."""
    plain, seen = narrow["int8"], CalibrationSet(some_images(32, 1), ("ort-cpu",), "int8")
    doubled = protect(plain, [DuplicatePass(("block.*.attn", "block.*.mlp"), vote)], seen)
    before, after = (
        {site.name: site.tensor for site in site_table(proto.SerializeToString(), "model")}
        for proto in (plain, doubled.proto)
    )
    assert before == {name: tensor for name, tensor in after.items() if not name.startswith(PREFIX)}
    parts = [place.name for done in doubled.applied for place in done.places if place.kind != "flag"]
    made, kept = (copies(proto, parts) for proto in (doubled.proto, optimised_by_onnxruntime(doubled.proto)))
    assert kept == made
    assert min(made.values()) >= 2
    assert f"{PREFIX}duplicate.1.block.0.attn.block.0.norm1" in after


@pytest.mark.parametrize("site", ["block.0.norm1", "block.0.attn.q", "block.1.attn.v", "block.1.attn.context"])
def test_every_change_of_an_integer_is_seen(protected: dict[str, Protected], site: str) -> None:
    """Of all 256 words that an element can hold, only its own is silent (or its neighbour, where it lay halfway)."""
    model = InstrumentedModel.of_onnx(protected["int8"].proto.SerializeToString())
    middle = next(s.elements for s in model.sites if s.name == site) // 2
    image, index, zeros = some_images(1, 3), np.full(16, middle), np.zeros(16, np.float32)
    alarms = 0
    with model.open_twin("ort-cpu", precision="int8", max_batch=16) as twin:
        for start in range(0, 256, 16):
            words = np.arange(start, start + 16, dtype=np.uint32)
            faults = replace(model.fault(site, index, Masks(0, 0, 0), zeros), or_mask=words[:, None])
            alarms += int(twin.run(model.feeds(np.repeat(image, 16, axis=0), faults))[DETECTED].sum())
    assert alarms in (254, 255)


def test_unsigned_activations_keep_fused_products_and_every_bit(narrow: dict[str, ModelProto]) -> None:
    plain = narrow["int8"]
    checked = protect(plain, [ChecksumPass(unsigned=True)], CalibrationSet(some_images(96, 1), ("ort-cpu",), "int8"))
    before, after = (fused_products(proto) for proto in (plain, checked.proto))
    assert before == after > 10
    images = some_images(64, 2)
    wanted = run_all(plain, images, "ort-cpu", "int8")
    results = run_all(checked.proto, images, "ort-cpu", "int8")
    name = plain.graph.output[0].name
    np.testing.assert_allclose(results[name], wanted[name], rtol=1e-5, atol=1e-5)
    assert not results[DETECTED].any()
    ranges = {tensor.name: tensor.data_type for tensor in checked.proto.graph.initializer}
    assert ranges["block.0.norm1_zero_point"] == onnx.TensorProto.UINT8
    assert fly(checked.proto, checked.applied, some_images(1, 4), "ort-cpu", "int8").activations >= 30


def fused_products(proto: ModelProto) -> int:
    return sum(node.op_type == "QLinearMatMul" for node in optimised_by_onnxruntime(proto).graph.node)
