"""Models of 2 GiB and more, whose weights stay beside the file: campaigns on them are those on the file in one piece.

Here a small model is taken for a large one; oracle: the same campaign on the same file, in one piece.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto

from testbed.campaign.files import RESULTS
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.cli.main import cli
from testbed.core.errors import EngineError, StaleArtefact, TestbedError, UsageError
from testbed.engines.weights import request_from
from testbed.export import target
from testbed.instrument.adopt import file as adopted_file
from testbed.instrument.adopt.file import adopt
from tests.support.exporters import randomised, written
from tests.support.libraries import imported

LARGE_FROM = 100_000  # bytes; the file has some 450,000
NAMES = ["engine_hash", "deployment_id"]
KINDS = {"as stored": "torchscript", "transposed": "dynamo"}


def spec_values(file: Path, **engine: Any) -> dict[str, Any]:
    strikes = {"ops": ["flip"], "per_stratum": 2}
    return {
        "name": "large",
        "seed": 3,
        "data": {"name": "digits"},
        "model": {"onnx": str(file)},
        "attention": {"block": 1},
        "tiers": {"edges": [1.0], "images": [4]},
        "engine": {"batch": 8, "unit": 16, "threads": 1, **engine},
        "gates": {"allow_chance_accuracy": True, "zero_fault_rows": 32},
        "tolerance": {"atol": 1e-4, "rtol": 1e-4},
        "faults": [
            strikes | {"target": "model", "where": "activation", "bits": [20, 30]},
            strikes | {"target": "model", "where": "weight", "sites": ["*.weight"], "bits": [22, 30]},
            strikes | {"target": "attention", "where": "activation", "bits": [30]},
        ],
    }


def taken_as_large(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(adopted_file, "LARGEST", LARGE_FROM)


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    library = imported("timm.models.vision_transformer")
    sizes = {"img_size": 16, "patch_size": 8, "in_chans": 1, "num_classes": 10}
    model = randomised(library.VisionTransformer(**sizes, embed_dim=64, depth=2, num_heads=2))
    return written(model, tmp_path_factory.mktemp("theirs") / "vit.onnx", KINDS[request.param], channels=1)


@pytest.fixture(scope="module")
def folders(file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    spec = parse_spec(spec_values(file))
    run_campaign(spec, base / "whole", worker_setup=WorkerSetup(0))
    with pytest.MonkeyPatch.context() as patch:
        taken_as_large(patch)
        run_campaign(spec, base / "apart", worker_setup=WorkerSetup(1))
    return {name: base / name for name in ("whole", "apart")}


def assert_same_rows(base: Path) -> int:
    """Of both campaigns, but for the names of what ran: the two plain files differ. Returns how many."""
    whole, apart = (pq.read_table(base / name / RESULTS).drop_columns(NAMES) for name in ("whole", "apart"))
    pd.testing.assert_frame_equal(whole.to_pandas(), apart.to_pandas(), check_exact=True)
    return int(whole.num_rows)


def test_rows_are_those_of_the_file_in_one_piece(folders: dict[str, Path]) -> None:
    assert assert_same_rows(folders["whole"].parent) > 300


def test_the_folder_holds_the_weights_once(folders: dict[str, Path]) -> None:
    apart = folders["apart"]
    data = apart / "model.onnx.data"
    plain, twin = (onnx.load(apart / name, load_external_data=False) for name in ("model.onnx", "model.twin.onnx"))
    beside = [t for t in plain.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert {entry.value for t in beside for entry in t.external_data if entry.key == "location"} == {data.name}
    assert sum(int(np.prod(t.dims)) * 4 for t in beside) <= data.stat().st_size
    assert [t for t in twin.graph.initializer if t.data_location == TensorProto.EXTERNAL] == beside
    in_one = {t.name: t.raw_data for t in onnx.load(folders["whole"] / "model.onnx").graph.initializer}
    for tensor in onnx.load(apart / "model.onnx").graph.initializer:
        assert tensor.raw_data == in_one[tensor.name]


def test_changed_weights_are_told(folders: dict[str, Path], file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folders["apart"] / "model.onnx.data"
    kept = data.read_bytes()
    data.write_bytes(kept[:-64] + bytes(64))
    try:
        taken_as_large(monkeypatch)
        with pytest.raises(StaleArtefact, match=r"model\.onnx\.data was edited or truncated since stage"):
            run_campaign(parse_spec(spec_values(file)), folders["apart"], worker_setup=WorkerSetup(0))
        data.write_bytes(kept[:1000])
        with pytest.raises(
            EngineError, match=r"weight '.*' cannot be read: .*model\.onnx\.data is not there, or is cut off"
        ):
            request_from(folders["apart"] / "model.twin.onnx", "id")
    finally:
        data.write_bytes(kept)


def test_a_preview_times_it_where_it_lies(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_as_large(monkeypatch)
    assert dry_run_plan(parse_spec(spec_values(file))).faults > 0


def test_the_engine_of_torch_takes_it(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = spec_values(file, backend="torch")
    sites = [["block.1.mlp.fc1", "head"], ["block.1.mlp.fc1.weight"]]
    values["faults"] = [section | {"sites": few} for section, few in zip(values["faults"], sites, strict=False)]
    del values["attention"]
    run_campaign(parse_spec(values), tmp_path / "whole", worker_setup=WorkerSetup(0))
    taken_as_large(monkeypatch)
    run_campaign(parse_spec(values), tmp_path / "apart", worker_setup=WorkerSetup(0))
    assert assert_same_rows(tmp_path) > 20


def test_what_cannot_take_it_says_so(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_as_large(monkeypatch)
    with pytest.raises(EngineError, match=r"openvino is not given models of 2 GiB and more here; take another engine"):
        run_campaign(parse_spec(spec_values(file, backend="openvino")), tmp_path / "run", worker_setup=WorkerSetup(0))
    with pytest.raises(TestbedError, match="larger than 2 GiB"):
        adopt(file)


def test_a_model_of_ones_own_is_exported_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = spec_values(tmp_path)
    values["model"] = {
        "preset": "digits",
        "recipe": "digits",
        "overrides": {"width": 64, "heads": [2], "head_width": 32, "mlp": [256]},
        "training": {"epochs": 1},
    }
    values["faults"] = values["faults"][:2]
    del values["attention"]
    run_campaign(parse_spec(values), tmp_path / "whole", worker_setup=WorkerSetup(0))
    monkeypatch.setattr(target, "LARGEST", 2**26 + LARGE_FROM)
    run_campaign(parse_spec(values), tmp_path / "apart", worker_setup=WorkerSetup(0))
    assert assert_same_rows(tmp_path) > 100
    assert (tmp_path / "apart" / "model.onnx").stat().st_size < (tmp_path / "apart" / "model.onnx.data").stat().st_size
    quantised = {"engine": {"precision": "int8"}, "faults": [values["faults"][0] | {"bits": [6]}]}
    with pytest.raises(UsageError, match="GiB is not quantised here; take fp16"):
        run_campaign(parse_spec(values | quantised), tmp_path / "int8", worker_setup=WorkerSetup(0))
    asked = [
        "protect",
        str(tmp_path / "apart"),
        "--with",
        "range",
        "--engine",
        "ort-cpu",
        "--to",
        str(tmp_path / "checked"),
    ]
    refused = CliRunner().invoke(cli, asked)
    assert refused.exit_code == 2
    assert "holds 2 GiB or more in fp32; such models are not protected here" in " ".join(refused.stderr.split())
