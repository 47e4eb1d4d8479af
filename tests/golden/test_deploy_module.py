"""One attention module of another library's file, exported by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner

from testbed.cli.main import cli
from tests.support.exporters import randomised, written
from tests.support.libraries import Seen, timm_model


@pytest.fixture(scope="module")
def model() -> Any:
    torch.set_num_threads(1)
    return randomised(timm_model())


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(model, tmp_path_factory.mktemp("files") / "vit.onnx", "torchscript")


def test_the_file_beside_it_computes_the_library_s_module(model: Any, file: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(file), "--target", "attention:1", "--atol", "1e-5", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert Path(record["file"]) == file.with_name("vit.attention.1.onnx")
    assert record["images"] == record["parity"][0]["n"] == 64
    assert record["parity"][0]["max_abs_diff"] < 1e-5
    attention = model.blocks[1].attn
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32))
    seen = Seen(model, images)
    session = ort.InferenceSession(record["file"], providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: seen.fed(attention).numpy()})
    np.testing.assert_allclose(output, seen.out(attention).numpy(), rtol=1e-5, atol=1e-5)


def test_the_size_of_images_that_a_file_leaves_open_can_be_stated(file: Path, tmp_path: Path) -> None:
    proto = onnx.load(file)
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    onnx.save(proto, tmp_path / "open.onnx")
    modules = []
    for source, stated in ((file, []), (tmp_path / "open.onnx", ["--image-size", "16"])):
        done = CliRunner().invoke(cli, ["export", str(source), "--target", "attention:0", "--json", *stated])
        assert done.exit_code == 0, done.output
        modules.append(onnx.load(json.loads(done.stdout)["file"]).graph)
    assert modules[0].node == modules[1].node
    refused = CliRunner().invoke(cli, ["export", str(file), "--target", "attention:0", "--image-size", "24"])
    assert refused.exit_code == 2
    assert "takes images of 16 x 16, not 24 x 24" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "is deployed as it is; what is exported of it is one attention module"),
        (["--target", "block:1"], "is deployed as it is; what is exported of it is one attention module"),
        (["--target", "attention:9"], "no attention of a block 9 is recognised; those of blocks 0, 1 are"),
        (["--target", "attention:1", "--precision", "int8"], "computes in fp32; a module of it is cut out as it is"),
    ],
)
def test_what_cannot_be_exported_of_it_is_refused(file: Path, arguments: list[str], message: str) -> None:
    before = sorted(file.parent.iterdir())
    done = CliRunner().invoke(cli, ["export", str(file), *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert sorted(file.parent.iterdir()) == before


def test_a_run_folder_says_its_own_size(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(tmp_path), "--target", "attention:0", "--image-size", "16"])
    assert done.exit_code == 2
    assert "--image-size is of an ONNX file" in done.stderr
