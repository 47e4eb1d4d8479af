"""Latency of a file that this project did not export. Oracle: the library's model, and a library's counter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from testbed.bench.foreign import check_batches
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.cli.main import cli
from testbed.core.errors import UsageError
from tests.support.exporters import randomised, written
from tests.support.libraries import imported


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.set_num_threads(1)
    library = imported("timm.models.vision_transformer")
    sizes = {"img_size": 16, "patch_size": 8, "in_chans": 1, "num_classes": 10}
    return randomised(library.VisionTransformer(**sizes, embed_dim=32, depth=2, num_heads=2))


@pytest.fixture(scope="module")
def campaign(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("theirs")
    values = {
        "name": "theirs",
        "data": {"name": "digits"},
        "model": {"onnx": str(written(model, base / "vit.onnx", "torchscript", channels=1))},
        "tiers": {"edges": [1.0], "images": [2]},
        "engine": {"batch": 4, "threads": 1},
        "gates": {"allow_chance_accuracy": True, "zero_fault_rows": 8},
        "faults": [{"target": "model", "where": "activation", "sites": ["head"], "bits": [30], "per_stratum": 1}],
    }
    run_campaign(parse_spec(values), base / "run", worker_setup=WorkerSetup(0))
    return base / "run"


def bench(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, ["bench", *map(str, arguments), "--batch", "1,3", "--runs", "6"])


def test_a_campaigns_file_is_timed_on_any_engine(campaign: Path, model: nn.Module) -> None:
    deployed = json.loads((campaign / "model.sites.json").read_text())["deployment_id"]
    plainly = sdpa_kernel(SDPBackend.MATH)  # products that the counter sees
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plainly:
        model(torch.zeros(1, 1, 16, 16))
    for engine in ("ort-cpu", "openvino"):
        result = bench(campaign, "--engine", engine, "--json")
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)["rows"]
        assert [row["batch"] for row in rows] == [1, 3]
        for row in rows:
            assert (row["engine"], row["precision"], row["deployment_id"]) == (engine, "fp32", deployed)
            assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
            assert 2 * row["macs"] == counter.get_total_flops()
            assert len(row["latency_ms"]) == 6
            assert row["p50_ms"] > 0


def test_it_is_a_baseline_as_any_model_is(campaign: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(campaign, target_is_directory=True)
    result = bench(campaign, other, "--baseline", campaign, "--json")
    ratios = [row["ratio_to_baseline"]["value"] for row in json.loads(result.stdout)["rows"]]
    assert ratios[:2] == [1.0, 1.0]
    assert len(ratios) == 4


def test_what_the_file_has_not_is_refused(campaign: Path) -> None:
    result = bench(campaign, "--precision", "fp16")
    assert result.exit_code == 2
    assert "computes in fp32, and there is no fp16 file of it; name --precision fp32" in " ".join(result.stderr.split())
    proto = onnx.load(campaign / "model.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(UsageError, match=r"run: the file takes 1 image\(s\) at a time; name --batch 1"):
        check_batches(proto, campaign, (1, 8))


def test_a_file_that_was_changed_is_told(campaign: Path) -> None:
    file = campaign / "model.onnx"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + b"\x00")
    try:
        result = bench(campaign)
        assert result.exit_code == 1
        assert "model.onnx was edited or truncated since stage 'export.model' wrote it" in " ".join(
            result.stderr.split()
        )
    finally:
        file.write_bytes(kept)
