"""Rows of a protected campaign, computed again in PyTorch with the guards written by hand: an oracle that shares no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from testbed.core.protected import PROTECTION, protected_file
from testbed.golden.source import dataset_of
from testbed.models.runs import open_model_run
from testbed.models.vit import ViT, taps
from tests.support.commands import invoke
from tests.support.small_runs import train_small_vit

SITES = ("*.attn.k", "*.attn.v", "*.mlp.gelu", "*.mlp.residual", "norm")
SPEC = """
name = "guarded"
seed = 3
[model]
run = "{run}"
[tiers]
edges = [1.0]
images = [8]
[engine]
batch = 16
[gates]
zero_fault_rows = 32
[[faults]]
target = "model"
where = "activation"
sites = ["*", "!protect.*"]
ops = ["flip"]
bits = [22, 26, 28, 29, 30, 31]
per_stratum = 3
"""


@pytest.mark.slow
def test_rows_are_those_of_pytorch_with_guards_by_hand(tmp_path: Path, cache_dir: Path) -> None:
    plain, guarded, folder = train_small_vit(tmp_path / "vit"), tmp_path / "guarded", tmp_path / "run"
    few = ("--calibration-images", 64, "--images", 64, "--margin", 1)
    assert invoke("protect", plain, "--with", "range", "--where", ",".join(SITES), "--to", guarded, *few).exit_code == 0
    spec = tmp_path / "guarded.toml"
    spec.write_text(SPEC.format(run=guarded))
    assert invoke("campaign", "run", spec, "--run", folder, "--workers", 0).exit_code == 0

    rows = pd.read_parquet(folder / "results.parquet")
    assert len(rows) >= 500
    run = open_model_run(guarded)
    proto = onnx.load(guarded / protected_file("fp32"))
    (done,) = json.loads(next(entry.value for entry in proto.metadata_props if entry.key == PROTECTION))
    bounds = {place["name"]: (place["low"], place["high"]) for place in done["places"]}
    assert len(bounds) == 3 * 4 + 1
    split = dataset_of(run).test
    places = {name: number for number, name in enumerate(split.ids)}
    golden = {name: _logits(run.model, split.batch([places[name]]), bounds) for name in rows.image_id.unique()}
    drawn: list[Any] = list(rows.itertuples())
    for row in drawn:
        logits = _logits(run.model, split.batch([places[row.image_id]]), bounds, row)
        stored = np.asarray(row.logits, np.float32)
        assert np.isfinite(logits).all() == np.isfinite(stored).all(), row
        if not np.isfinite(logits).all():
            continue
        # a layer norm of what overflows when squared is another in each library
        loose = 0.05 if abs(row.faulty_value) > 1e18 else 1e-3
        np.testing.assert_allclose(stored, logits, rtol=loose, atol=loose, err_msg=str(row))
        first, second = np.sort(logits)[::-1][:2]
        if first - second > 4 * loose:  # else rounding may decide
            assert (row.outcome == "sdc1") == (logits.argmax() != golden[row.image_id].argmax()), row


def _logits(model: ViT, image: np.ndarray, bounds: Mapping[str, tuple[float, float]], row: Any = None) -> np.ndarray:
    def hook(tap: nn.Module, _: object, output: Tensor) -> Tensor:
        values = output.clone(memory_format=torch.contiguous_format)
        site = str(tap.site)
        if row is not None and site == row.site:
            flat = values.view(-1)
            index = int(row.index)
            word = int(flat[index : index + 1].view(torch.int32).item()) & 0xFFFFFFFF
            word = ((word & row.and_mask) | row.or_mask) ^ row.xor_mask
            flat[index] = torch.tensor(np.uint32(word).view(np.float32))
        if site in bounds:
            low, high = bounds[site]
            values = torch.where(torch.isnan(values), torch.zeros(()), values.clamp(low, high))
        return values

    handles = [tap.register_forward_hook(hook) for tap in taps(model).values()]
    try:
        with torch.inference_mode():
            return model(torch.from_numpy(image))[0].numpy()
    finally:
        for handle in handles:
            handle.remove()
