"""Other libraries' models, exported as their users do: every pass stands, and every operator that has a sum is checked.

Oracles: the plain file's own graph, for what a check must cover; ONNX Runtime on both files, for outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from testbed.campaign.spec.campaign import parse_spec
from testbed.core.errors import UsageError
from testbed.core.protected import DETECTED, PREFIX
from testbed.data import load
from testbed.instrument.adopt.file import adopt
from testbed.instrument.sites.catalogue import catalogue
from testbed.protect.foreign import FileData, protect_file
from testbed.protect.graph import GraphEditor
from testbed.protect.named import passes_named
from testbed.protect.record import ProtectedFile
from testbed.protect.run import ProtectRequest
from tests.support.foreign_models import MODELS, WAYS, exported, photos, written_as
from tests.support.protect_table import run_table, table_values

PASSES = ("range", "duplicate", "checksum", "nonfinite")
WITH_SUMS = {"MatMul", "Gemm", "Conv", "LayerNormalization", "Softmax"}
ROUNDING_KINDS = {"product", "live product", "residual", "softmax"}
FAST = {("torchvision ViT", "torchscript")}
NO_EXPORT = {("transformers DINOv2, registers", "torchscript")}  # the exporter lacks an operator of its own


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return photos(tmp_path_factory.mktemp("foreign") / "photos")


def protected(file: Path, data: str, *passes: str) -> tuple[Path, ProtectedFile]:
    to = file.with_suffix(".protected.onnx")
    request = ProtectRequest(passes_named(passes, {}), calibration_images=40, images=40)
    (done,) = protect_file(file, to, request, FileData(data, preprocess="half")).files
    return to, done


def check(file: Path, to: Path, done: ProtectedFile, data: str) -> None:
    """Raises AssertionError where a promise of protection is not kept. file: as it was exported."""
    plain, after = adopt(file).plain, to.read_bytes()
    (unchanged,), (canary,) = done.ensured.unchanged, done.ensured.canaries
    assert unchanged.false_alarms == 0
    by_pass = {step.name: step for step in done.applied}
    assert set(by_pass) == set(PASSES)
    assert canary.activations == sum(len(by_pass[name].places) for name in PASSES[1:])
    assert canary.weights >= 6  # of each block qkv and proj, where the MLP is of a kind that has no names, too
    graph = GraphEditor(onnx.load_from_string(plain))
    covered = {name for place in by_pass["checksum"].places for name in place.covers}
    assert by_pass["checksum"].left_out == {}
    assert covered >= set(graph.sites)
    for node in graph.flow.nodes:
        if node.op_type in WITH_SUMS and node.output[0] in graph.flow.live:
            assert graph.named(node.output[0]) in covered, node.output[0]
    for place in by_pass["checksum"].places:
        if place.kind in ROUNDING_KINDS:  # a check of something else would be off by more than rounding
            assert place.noise is not None
            assert place.rule is not None
            assert place.noise <= 2 * place.rule, place.name
    named = {s.name: (s.tensor, s.shape) for s in catalogue(after).recognised if not s.name.startswith(PREFIX)}
    assert named == {s.name: (s.tensor, s.shape) for s in catalogue(plain).recognised}
    check_outputs(plain, after, data)


def check_outputs(plain: bytes, after: bytes, data: str) -> None:
    """Within rounding of the plain file's, of images that nothing was measured on; and no alarm."""
    import onnxruntime as ort

    images = load(data, preprocess="half").test.batch(slice(30, 40))
    sessions = [ort.InferenceSession(content, providers=["CPUExecutionProvider"]) for content in (plain, after)]
    (wanted,), (logits, alarms) = (s.run(None, {s.get_inputs()[0].name: images}) for s in sessions)
    assert sessions[1].get_outputs()[1].name == DETECTED
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-3 * float(np.abs(wanted).max()))
    assert alarms.shape == (len(images),)
    assert not alarms.any()


CASES = [
    pytest.param(name, exporter, marks=[] if (name, exporter) in FAST else pytest.mark.slow)
    for name in MODELS
    for exporter in ("dynamo", "torchscript")
    if (name, exporter) not in NO_EXPORT
]


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_every_pass_stands_in_the_models_of_other_libraries(
    name: str, exporter: str, data: str, tmp_path: Path
) -> None:
    file = exported(name, tmp_path / "vit.onnx", exporter)
    check(file, *protected(file, data, *PASSES), data)


ALL_ALIKE = {"edges": [0.25, 0.5, 0.75, 1.0], "images": [2, 0, 0, 0]}
QUICK_WAYS = ("norms written out",)


@pytest.mark.parametrize("way", [pytest.param(w, marks=[] if w in QUICK_WAYS else pytest.mark.slow) for w in WAYS])
def test_so_do_they_in_every_way_to_write_one(way: str, data: str, tmp_path: Path) -> None:
    file = written_as(way, tmp_path / "vit.onnx")
    check(file, *protected(file, data, *PASSES), data)


def test_of_several_outputs_the_logits_are_kept_or_asked_for(data: str, tmp_path: Path) -> None:
    file = exported("timm ViT", tmp_path / "vit.onnx", "torchscript")
    proto = onnx.load(file)
    (logits,) = proto.graph.output
    hidden = next(node.output[0] for node in proto.graph.node if node.op_type == "LayerNormalization")
    proto.graph.output.append(onnx.helper.make_tensor_value_info(hidden, onnx.TensorProto.FLOAT, ["batch", 5, 32]))
    onnx.save(proto, file)
    to, done = protected(file, data, "range")
    assert [output.name for output in onnx.load(to).graph.output] == [logits.name]
    assert done.ensured.unchanged[0].identical == 40
    to.unlink()

    classes = logits.type.tensor_type.shape.dim[1].dim_value
    proto.graph.node.append(onnx.helper.make_node("Neg", [logits.name], ["others"]))
    proto.graph.node.append(onnx.helper.make_node("Identity", [logits.name], ["first"]))
    del proto.graph.output[:]
    for name in ("first", "others"):
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", classes])
        proto.graph.output.append(value)
    onnx.save(proto, file)
    with pytest.raises(UsageError, match=r"first, others"):
        protected(file, data, "range")
    assert list(tmp_path.glob("*.protected.onnx")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "exporter"),
    [("timm ViT", "dynamo"), ("torchvision ViT", "torchscript"), ("transformers ViT", "torchscript")],
)
def test_campaigns_before_and_after_pair_fault_by_fault(name: str, exporter: str, data: str, tmp_path: Path) -> None:
    file = exported(name, tmp_path / "vit.onnx", exporter)
    asked = {"with": ["range", "checksum", "nonfinite"], "calibration_images": 30, "images": 30}
    faults = [
        {"target": "model", "where": "activation", "ops": ["flip"], "bits": [12, 30], "per_stratum": 2},
        {"target": "model", "where": "weight", "ops": ["flip"], "bits": [30], "per_stratum": 1},
    ]
    values = table_values(
        asked, model={"onnx": str(file)}, data={"name": data, "preprocess": "half"}, faults=faults, tiers=ALL_ALIKE
    )
    values["gates"]["allow_chance_accuracy"] = True  # random weights
    compared = run_table(parse_spec(values), tmp_path / "run").comparison
    assert compared is not None
    assert compared.pairing.unmatched == []
    assert compared.pairing.faults > 100
    whole = {group.where: group for group in compared.groups if group.by == "all"}
    assert whole["activation"].outside.before.rate > 0.2
    for where in ("activation", "weight"):
        assert whole[where].outside.after.rate < 0.05 * whole[where].outside.before.rate
