"""The benchmark of time to a margin, at toy size: what is drawn, and what the record says."""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch

import bench_confidence
import numpy as np
import pytest
import torch
from benchmarks.adaptive import LINEAR_SITES, leveugle_sizes, populations, uniform_sizes
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
