"""An independent check: sampled faults of a finished campaign, recomputed in plain PyTorch from the stored plan
alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from testbed.campaign.folder.images import named_images
from testbed.data import load
from testbed.models.vit import ViT, taps
from testbed.models.weights import load_model
from tests.support.blocks import blocks_of
from tests.support.onnx_operators import use_onnx_layer_norms
from tests.support.records import records

SAMPLED = 600
NOISE = 2e-5  # of torch against the engine, on outputs of order 1
ATOL = RTOL = 1e-4  # campaigns/digits.toml
INSIDE = {"identical", "masked"}


def injected_word(word: int, row: Any) -> int:
    """v' = ((v & and) | or) ^ xor, on Python's integers: no NumPy, no code of ours."""
    return int(((word & row.and_mask) | row.or_mask) ^ row.xor_mask)


def injected(value: float, row: Any) -> float:
    word = struct.unpack("<I", struct.pack("<f", value))[0]
    return float(struct.unpack("<f", struct.pack("<I", injected_word(word, row)))[0])


def as_float(word: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", word))[0])


def word_of(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def place(model: ViT, site: str) -> tuple[torch.nn.Module, Any]:
    """Where PyTorch computes the site's tensor: a module to hook, and how to pick the tensor in its output (no
    taps)."""
    outside: dict[str, torch.nn.Module] = {
        "patch_embed": model.patch_embed,
        "embed": model.embed_drop,
        "norm": model.norm,
        "head": model.head,
    }
    if site in outside:
        return outside[site], None
    _, number, rest = site.split(".", 2)
    block = blocks_of(model)[int(number)]
    direct: dict[str, torch.nn.Module] = {
        "norm1": block.norm1,
        "norm2": block.norm2,
        "attn.proj": block.attn.proj,
        "mlp.fc1": block.mlp.fc1,
        "mlp.fc2": block.mlp.fc2,
        "mlp.residual": block,
    }
    if rest in direct:
        return direct[rest], None
    if rest in ("attn.q", "attn.k", "attn.v"):
        return block.attn.qkv, "qkv".index(rest[-1])
    return taps(model)[site], None


@contextmanager
def hooked(model: ViT, row: Any) -> Iterator[list[tuple[float, float]]]:
    """Strikes one element during the next forward pass; collects (before, after)."""
    module, part = place(model, row.site)
    seen: list[tuple[float, float]] = []

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        flat = output.view(-1)
        index = int(row.index)
        if part is not None:  # (heads, tokens, width) -> the fused qkv row of that token
            heads, width = model.config.heads[0], model.config.head_width
            head, token, column = np.unravel_index(index, (heads, output.shape[1], width))
            index = int(token) * 3 * heads * width + part * heads * width + int(head) * width + int(column)
        before = float(flat[index])
        flat[index] = injected(before, row)
        seen.append((before, float(flat[index])))
        return output

    handle = module.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def weight_faulty(model: ViT, row: Any) -> Iterator[list[tuple[float, float]]]:
    parameter = dict(model.named_parameters())[row.site].data.view(-1)
    before = float(parameter[row.index])
    parameter[row.index] = injected(before, row)
    try:
        yield [(before, float(parameter[row.index]))]
    finally:
        parameter[row.index] = before


class Oracle:
    """The campaign's model and images, read from its files."""

    def __init__(self, run: Path, own_layer_norm: bool = False) -> None:
        torch.set_num_threads(1)
        self.model = load_model(run / "model.safetensors")
        if not own_layer_norm:
            use_onnx_layer_norms(self.model)
        self.first = blocks_of(self.model)[0]
        images = named_images(run / "tiers.json")
        self.row = {image_id: i for i, image_id in enumerate(images.ids)}
        self.images = torch.from_numpy(load("digits", seed=42).test.batch(images.positions))
        with torch.no_grad():
            self.hidden = self.first.norm1(self.model.embedded(self.images))

    def output(self, target: str, image: int) -> np.ndarray:
        one = slice(image, image + 1)
        with torch.no_grad():
            whole = self.model(self.images[one]) if target == "model" else self.first.attn(self.hidden[one])
        return whole[0].numpy()


def outcome_of(target: str, faulty: np.ndarray, golden: np.ndarray) -> str:
    with np.errstate(all="ignore"):
        right = (np.abs(faulty - golden) <= ATOL + RTOL * np.abs(golden)) | (faulty == golden)
    if right.all():
        return "inside"
    if target == "attention":
        return "sdc"
    return "sdc1" if np.isnan(faulty).any() or faulty.argmax() != golden.argmax() else "sdc_tolerable"


def near_the_line(row: Any) -> bool:
    """Whether noise could carry the engine's own output over the tolerance, or over a tie of the two best classes."""
    atol = row.masking_atol[list(GRID).index(RTOL)]
    tie = row.target == "model" and row.logits is not None and np.diff(np.sort(row.logits)[-2:])[0] <= NOISE
    return bool(abs(atol - ATOL) <= NOISE or tie)


GRID = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


@pytest.mark.parametrize(
    ("target", "where"),
    [("model", "activation"), ("model", "weight"), ("attention", "activation"), ("attention", "weight")],
)
def test_outcomes_agree_with_plain_pytorch(digits_run: Path, target: str, where: str) -> None:
    filters = [("target", "=", target), ("where", "=", where)]
    rows: pd.DataFrame = pq.read_table(digits_run / "results.parquet", filters=filters).to_pandas()
    faults = rows.groupby("fault_id", sort=False).sample(1, random_state=0)
    chosen = faults.sample(min(SAMPLED, len(faults)), random_state=1)
    assert len(chosen) >= min(500, rows.fault_id.nunique())
    oracle = Oracle(digits_run)
    inject = hooked if where == "activation" else weight_faulty
    wrong, excluded = [], 0
    for row in records(chosen):
        assert row.golden_word == word_of(row.golden_value)
        assert row.faulty_word == injected_word(row.golden_word, row)
        assert row.faulty_value == as_float(row.faulty_word) or np.isnan(row.faulty_value)
        image = oracle.row[row.image_id]
        golden = oracle.output(target, image)
        with inject(oracle.model, row) as seen:
            faulty = oracle.output(target, image)
        before, after = seen[0]
        if where == "weight":
            assert word_of(before) == row.golden_word
            assert word_of(after) == row.faulty_word or np.isnan(after)  # Python's float quiets a signalling NaN
        else:
            assert before == pytest.approx(row.golden_value, rel=1e-4, abs=1e-5)
        if outcome_of(target, faulty, golden) != ("inside" if row.outcome in INSIDE else row.outcome):
            if near_the_line(row):
                excluded += 1
            else:
                wrong.append((row.fault_id, row.site, row.op, row.bit, row.outcome, row.max_abs_diff))
    assert not wrong
    assert excluded <= 0.01 * len(chosen)


def test_eager_pytorch_differs_where_a_layer_norm_overflows(digits_run: Path) -> None:
    """Why the deployed engine must be struck, and not the eager model: the top exponent bit overflows a LayerNorm."""
    filters = [("target", "=", "model"), ("where", "=", "activation"), ("op", "=", "flip"), ("bit", ">=", 29)]
    rows: pd.DataFrame = pq.read_table(digits_run / "results.parquet", filters=filters).to_pandas()
    eager, defined = Oracle(digits_run, own_layer_norm=True), Oracle(digits_run)
    differ = 0
    for row in records(rows.sample(400, random_state=0)):
        image = eager.row[row.image_id]
        with hooked(eager.model, row):
            theirs = eager.output("model", image)
        with hooked(defined.model, row):
            ours = defined.output("model", image)
        if np.isnan(theirs).any() and not np.isnan(ours).any():
            differ += 1
            assert abs(row.faulty_value) > 1e15
    assert differ > 0


def test_every_site_and_weight_had_a_fault(digits_run: Path) -> None:
    plan = pq.read_table(digits_run / "faults.parquet", columns=["target", "where", "site", "op", "bit"]).to_pandas()
    model = plan[plan.target == "model"]
    weights = {name for name, _ in load_model(digits_run / "model.safetensors").named_parameters()}
    assert set(model[model["where"] == "weight"].site) == weights
    taps = {m.site for m in load_model(digits_run / "model.safetensors").modules() if hasattr(m, "site")}
    assert set(model[model["where"] == "activation"].site) == taps
    flips = plan[plan.op == "flip"]
    assert set(flips.bit) == set(range(32))
    assert set(plan.op) == {"flip", "stuck0", "stuck1", "random"}


def test_physics(digits_run: Path) -> None:
    """What a reader expects: low mantissa bits are masked, the top exponent bit does the damage."""
    columns = ["target", "op", "bit_class", "outcome", "nonfinite", "where"]
    rows = pq.read_table(digits_run / "results.parquet", columns=columns).to_pandas()
    flips = rows[(rows.target == "model") & (rows.op == "flip") & (rows["where"] == "activation")]
    low = flips[flips.bit_class == "mantissa_low"]
    assert low.outcome.isin(["identical", "masked"]).mean() > 0.98
    sdc1 = flips[flips.outcome == "sdc1"]
    assert (sdc1.bit_class == "exponent_top").mean() > 0.5
