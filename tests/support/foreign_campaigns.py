"""Campaigns on a file that this project did not export: timm's ViT, trained in PyTorch, written by timm's own exporter."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.summary.record import Summary
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.data import load

FC1_OUTPUT = "block.1.mlp.fc1"


@dataclass(frozen=True)
class Finished:
    """A campaign on ``file``, which holds ``model``."""

    model: nn.Module
    file: Path
    folder: Path
    summary: Summary
    values: dict[str, Any]


def trained() -> nn.Module:
    """On the digits, blown up to 16 x 16."""
    importlib.import_module("testbed.data.torchvision_import")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("timm.models.vision_transformer", reason="timm is not installed")
    torch.manual_seed(0)
    model: nn.Module = library.VisionTransformer(
        img_size=16, patch_size=8, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=2
    )
    data = load("digits", image=16)
    images, labels = torch.from_numpy(data.train.batch(slice(None))), torch.from_numpy(data.train.labels.copy())
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(6):
        for part in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimiser.step()
    return model.eval()


def written(model: nn.Module, file: Path) -> Path:
    """By timm's own means."""
    export = importlib.import_module("timm.utils.onnx").onnx_export
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            export(model, str(file), example_input=torch.zeros(2, 1, 16, 16), check=False)
    finally:
        logging.disable(logging.NOTSET)
    return file


def spec_values(file: Path) -> dict[str, Any]:
    return {
        "name": "theirs",
        "seed": 3,
        "data": {"name": "digits"},
        "model": {"onnx": str(file)},
        "tiers": {"edges": [0.5, 1.0], "images": [3, 3]},
        "engine": {"batch": 16},
        "gates": {"test_accuracy": 0.5, "zero_fault_rows": 64},
        "tolerance": {"atol": 1e-5, "rtol": 1e-5},
        "faults": [
            {
                "target": "model",
                "where": "activation",
                "sites": ["*.softmax", FC1_OUTPUT, "embed"],
                "bits": [0, 20, 27, 31],
                "per_stratum": 8,
                "ops": ["flip"],
            },
            {
                "target": "model",
                "where": "weight",
                "sites": ["*.qkv.weight", "block.1.mlp.fc2.weight", "norm.bias", "head.weight", "cls_token"],
                "bits": [5, 22, 27, 31],
                "per_stratum": 3,
                "ops": ["flip", "stuck1"],
            },
        ],
    }


def run(values: dict[str, Any], folder: Path) -> Summary:
    return run_campaign(parse_spec(values), folder, worker_setup=WorkerSetup(0))


def changed(finished: Finished, **tables: Any) -> dict[str, Any]:
    """The spec's values with some tables, or keys of them, replaced."""
    values = copy.deepcopy(finished.values)
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table} if isinstance(table, dict) else table
    return values
