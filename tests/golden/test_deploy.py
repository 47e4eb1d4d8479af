"""Engine files per target and precision, and the parity that is reported of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from testbed.analysis.outputs.confidence import TierEdges, tiers_from_logits
from testbed.cli.main import cli
from testbed.core.errors import UsageError
from testbed.core.folder.files import sha256_file
from testbed.data import load
from testbed.export.calibration import calibration_split
from testbed.export.precision import Calibration
from testbed.golden.deploy import deploy
from testbed.golden.recorded import open_golden
from testbed.golden.source import dataset_of
from testbed.instrument.table import site_table
from testbed.models.runs import open_model_run
from testbed.models.weights import load_model

ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.mark.parametrize("target", ["model", "attention"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_parity_is_what_the_engine_gives(recorded: Path, target: str, precision: str) -> None:
    found = deploy(recorded, target, precision, calibration=Calibration(64))
    golden = open_golden(recorded)
    tiers = tiers_from_logits(golden.logits, golden.labels, TierEdges.preset(4))
    assert [tier.n for tier in found.parity] == [*(len(rows) for rows in tiers.positions), 719]
    whole = found.parity[-1]
    assert whole.max_abs_diff == max(t.max_abs_diff for t in found.parity if t.max_abs_diff is not None)
    bound = {"fp32": 1e-4, "fp16": 0.1, "int8": 10.0}[precision]  # logits of this model are of order 10
    assert 0 < whole.max_abs_diff < bound
    assert (whole.top1_agreement is None) == (target == "attention")
    assert found.precision == precision
    assert found.deployment_id == sha256_file(Path(found.file))[:16]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_cast_file_has_the_parameters_under_their_names(recorded: Path, precision: str) -> None:
    if precision == "bf16":
        with pytest.raises(UsageError, match="is written, but engine 'ort-cpu' does not offer 'bf16'"):
            deploy(recorded, "model", precision)
    else:
        deploy(recorded, "model", precision)
    content = (recorded / f"model.{precision}.onnx").read_bytes()
    stored = {i.name: i for i in onnx.load_from_string(content).graph.initializer}
    sites = {site.name: site for site in site_table(content, "model") if site.where == "weight"}
    for name, parameter in load_model(recorded / "model.safetensors").named_parameters():
        assert stored[name].data_type == ELEMENT[precision]
        assert sites[name].shape == tuple(parameter.shape)
        array = numpy_helper.to_array(stored[name]).astype(np.float32)
        wanted = parameter.detach().numpy()
        np.testing.assert_allclose(array.T if sites[name].transposed else array, wanted, rtol=2**-7, atol=1e-7)


def test_a_quantised_file_has_integers_scales_and_zero_points_as_sites(recorded: Path) -> None:
    found = deploy(recorded, "model", "int8", calibration=Calibration(64))
    assert found.calibration is not None
    assert (found.calibration["images"], found.calibration["method"]) == (64, "MinMax")
    sites = {site.name: site for site in site_table(Path(found.file).read_bytes(), "model")}
    assert sites["block.1.attn.qkv.weight"].format_name == "int8"
    assert sites["block.1.attn.qkv.weight"].shape == (96, 32)
    assert sites["block.1.attn.qkv.weight.scale"].format_name == "fp32"
    assert sites["block.1.attn.qkv.weight.zero_point"].format_name == "int8"
    assert sites["head.bias"].format_name == "int32"
    assert sites["block.1.norm1"].format_name == "int8"
    assert sites["block.1.attn.residual"].format_name == "fp32"


def test_a_stated_tolerance_that_is_not_met_is_a_failed_gate(recorded: Path) -> None:
    arguments = ["export", str(recorded), "--precision", "fp16", "--json"]
    done = CliRunner().invoke(cli, [*arguments, "--atol", "1e-6"])
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    keys = {"file", "engine_hash", "deployment_id", "precision", "parity"}
    assert keys <= report.keys()
    assert {"tier", "n", "max_abs_diff", "smallest_atol", "top1_agreement"} == report["parity"][0].keys()
    needed = max(r["smallest_atol"] for r in report["parity"])
    assert CliRunner().invoke(cli, [*arguments, "--atol", str(needed)]).exit_code == 0


def test_what_cannot_be_is_one_line(recorded: Path) -> None:
    for arguments, told in (
        (["--target", "block:9"], "3 blocks"),
        (["--engine", "ort"], "unknown engine 'ort'"),
        (["--precision", "int8", "--calibration-method", "Guess"], "unknown calibration method 'Guess'"),
        (["--precision", "int8", "--calibration-data", "nothing"], "unknown data set 'nothing'"),
    ):
        done = CliRunner().invoke(cli, ["export", str(recorded), *arguments])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert told in done.stderr


def test_other_images_for_calibration_are_prepared_as_the_model_s_are(recorded: Path, tmp_path: Path) -> None:
    """Not as is usual for the data set that they are from."""
    train = load("digits").train
    pixels = np.stack([train.pixels(position) for position in range(40)])
    np.savez(tmp_path / "more.npz", images=pixels, labels=train.labels[:40])
    own = dataset_of(open_model_run(recorded))
    chosen = calibration_split(own, Calibration(40, source=f"npz:{tmp_path / 'more.npz'}"))
    np.testing.assert_array_equal(chosen.batch(slice(None)), train.batch(slice(0, 40)))
