"""The benchmark of time to a margin, at toy size: what is drawn, and what the record says."""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch
from pathlib import Path

import bench_confidence
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks.adaptive import (
    LINEAR_SITES,
    correlation,
    leveugle_sizes,
    pilot_correlation,
    populations,
    spec_of,
    uniform_sizes,
    uniform_weight_sizes,
)
from benchmarks.faults import linear_layers, neuron_faults, neuron_places

from testbed.analysis.adaptive.rule import StopRule
from testbed.models.presets import preset
from testbed.models.vit import ViT, taps
from tests.support.peers import needs_pytorchfi

DIGITS = preset("digits")


def test_populations_are_elements_times_bits_times_images() -> None:
    layers = linear_layers(DIGITS)
    outputs = 3 * 2 * 16 + 32 + 64 + 32  # qkv, proj, fc1 and fc2 of a block
    assert populations(layers, DIGITS.tokens, images=4).tolist() == [outputs * DIGITS.tokens * 4 * 32] * DIGITS.depth


def test_the_campaign_samples_the_population_that_is_spoken_of() -> None:
    layers = linear_layers(DIGITS)
    sites = set(neuron_places(neuron_faults(layers, DIGITS.tokens, 1, 3000, 0), layers, DIGITS)[0])
    with torch.device("meta"):
        names = list(taps(ViT(DIGITS)))
    assert sites == {name for name in names if any(fnmatch(name, pattern) for pattern in LINEAR_SITES)}


def test_sizes_of_the_other_designs() -> None:
    rule = StopRule(margin=0.01, confidence=0.95)
    assert leveugle_sizes(np.array([10**9, 10**9]), rule).tolist() == [9604, 9604]  # 1.96^2 / 4 / 0.01^2
    rare, even = uniform_sizes(np.array([10**9, 10**9]), np.array([0.0, 0.5]), rule, seed=0)
    assert (
        183 <= rare < 800
    )  # no event in 183 faults is enough; there is room for one, and rounds before the last count less
    assert 9000 < even < 16000  # what several looks cost on top of 9604


def test_sizes_for_a_share_of_the_rate() -> None:
    rule = StopRule(margin=0.0005, relative=0.1)
    rate = np.array([0.01, 0.001])
    wanted = [1.959964**2 * p * (1 - p) / max(0.1 * p, 0.0005) ** 2 for p in rate]
    np.testing.assert_allclose(leveugle_sizes(np.array([10**12] * 2), rule, rate), wanted, rtol=1e-3)
    together = uniform_weight_sizes(np.array([10**6]), np.array([0.02]), np.array([0.6]), 16, rule, seed=0)[0]
    clustered = 1.959964**2 * 0.98 / (0.02 * 0.1**2) * (1 + 15 * 0.6) / 16  # the design effect of clusters of 16
    assert clustered < together < 1.6 * clustered


def test_the_correlation_of_a_faults_images_is_told_by_pairs_though_few_are_run(tmp_path: Path) -> None:
    rng, faults = np.random.default_rng(0), 40_000
    chance = rng.beta(0.25 * 0.2, 0.25 * 0.8, faults)  # beta-binomial: mean 0.2, correlation 1 / (1 + 0.25)
    for images in (2, 5):
        events = rng.random((faults, images)) < chance[:, None]
        outcome = np.where(events.reshape(-1), "sdc1", "masked")
        rows = {
            "fault_id": np.repeat(np.arange(faults), images),
            "block": np.repeat(np.arange(faults) % 2, images),
            "outcome": outcome,
            "weight": np.full(faults * images, 3.0),
        }
        pq.write_table(pa.table(rows), tmp_path / "results.parquet")
        np.testing.assert_allclose(correlation(tmp_path / "results.parquet"), [0.8, 0.8], atol=0.03)


def test_where_each_fault_has_one_image_the_pilot_tells_how_alike_images_are(tmp_path: Path) -> None:
    rows = {"fault_id": [0, 1], "block": [0, 0], "outcome": ["sdc1", "masked"], "weight": [1.0, 1.0]}
    pq.write_table(pa.table(rows), tmp_path / "results.parquet")
    choice = {"where": "weight", "correlation": 0.3}
    stages = {"images": {"facts": {"chosen": [{"where": "activation", "correlation": 0.9}, choice]}}}
    assert correlation(tmp_path / "results.parquet", pilot_correlation(stages)).tolist() == [0.3]
    assert pilot_correlation({}) == 0
    assert pilot_correlation({"images": {"facts": {"chosen": [choice | {"correlation": None}]}}}) == 0


def test_what_is_asked_of_a_campaign_leaves_the_design_to_it() -> None:
    activations, weights = spec_of(0.01, 0.95), spec_of(0.0005, 0.9, 0.1, "weight")
    assert activations["stop"] == {"margin": 0.01, "confidence": 0.95, "per": "block"}
    assert weights["stop"] == {"margin": 0.0005, "relative": 0.1, "confidence": 0.9, "per": "block"}
    assert weights["faults"][0]["where"] == "weight"


@needs_pytorchfi
@pytest.mark.parametrize(
    ("where", "asked"), [("activation", ["--relative", "0.5"]), ("weight", ["--relative", "0.25", "--quick"])]
)
def test_a_relative_margin_is_measured_in_both_places(
    where: str, asked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = ["--model", "digits", "--engine", "ort-cpu", "--batch", "16", "--images", "8", "--faults", "100"]
    how = ["--repeats", "1", *asked, "--margin", "0.01", "--where", where, "--json"]
    monkeypatch.setattr(sys, "argv", ["bench_confidence.py", *toy, *how])
    bench_confidence.main()
    found = json.loads(capsys.readouterr().out)
    assert found["relative"] == 0.5  # quickly, twice what was asked
    assert found["margin_met"]
    prepared = abs(found["ratio_same_stop_with_preparation"] - 1)
    assert 0 < prepared < abs(found["ratio_same_stop"] - 1)  # both sides pay for it
    assert found["ratio_pytorchfi"] > found["ratio_pytorchfi_with_preparation"] > 0
    for block in found["blocks"]:
        assert block["high"] - block["low"] <= 2 * max(0.01, 0.5 * block["rate"]) + 1e-6


@needs_pytorchfi
def test_the_record_holds_what_is_asked_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = ["--model", "digits", "--engine", "ort-cpu", "--batch", "16", "--images", "3", "--faults", "60"]
    monkeypatch.setattr(sys, "argv", ["bench_confidence.py", *toy, "--repeats", "1", "--margin", "0.05", "--json"])
    bench_confidence.main()
    found = json.loads(capsys.readouterr().out)
    assert found["margin"] == 0.05
    assert min(found["ratio"], found["ratio_same_stop"], found["ratio_engine"]) > 0
    assert [block["block"] for block in found["blocks"]] == [0, 1, 2]
    for block in found["blocks"]:
        assert block["low"] <= block["rate"] <= block["high"]
        assert block["high"] - block["low"] <= 2 * 0.05
        assert block["n"] < block["n_leveugle"]
    assert found["margin_met"]
    seconds = found["cpu_seconds"]
    assert found["ratio"] == pytest.approx(seconds["leveugle_pytorchfi"] / seconds["adaptive"])
