"""The benchmark against PyTorchFI at toy size: both sides strike the same elements, and what is printed follows."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import bench_pytorchfi
import numpy as np
import pytest
import torch
from benchmarks import faults as lists
from benchmarks import peer_mrfi, peer_pytorchfi
from benchmarks.clock import Timing, ratio
from benchmarks.verdict import MASKED, SDC, SDC1, Tolerance, agreement, judged
from benchmarks.work import Work, shares_left, weight_shares_left
from torch.utils.flop_counter import FlopCounterMode

from testbed.models.presets import preset
from testbed.models.vit import ViT, taps
from tests.support.peers import needs_pytorchfi

needs_mrfi = pytest.mark.skipif(not peer_mrfi.available(), reason=peer_mrfi.MISSING)


def toy() -> tuple[ViT, np.ndarray]:
    torch.manual_seed(3)
    model = ViT(preset("digits")).eval()
    return model, np.random.default_rng(3).standard_normal((3, 1, 8, 8)).astype(np.float32)


def some_faults(model: ViT, count: int) -> tuple[list[lists.Layer], lists.NeuronFaults]:
    layers = lists.linear_layers(model.config)
    return layers, lists.neuron_faults(layers, model.config.tokens, 3, count, seed=1)


def faulty_at_site(model: ViT, image: np.ndarray, site: str, index: int, bit: int) -> torch.Tensor:
    """Output when one bit of a site's element is flipped, through the model's own tap."""

    def flip(_module: torch.nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        words = output.contiguous().numpy().copy().view(np.uint32)
        words.reshape(-1)[index] ^= np.uint32(1 << bit)
        return torch.from_numpy(words.view(np.float32))

    handle = taps(model)[site].register_forward_hook(flip)
    try:
        with torch.inference_mode():
            return model(torch.from_numpy(image[None]))
    finally:
        handle.remove()


# ---- the list


def test_faults_are_spread_over_elements_not_layers() -> None:
    model, _ = toy()
    layers, found = some_faults(model, 20_000)
    widths = np.array([layer.outputs for layer in layers])
    expected = widths / widths.sum()
    shares = np.bincount(found.layer, minlength=len(layers)) / len(found)
    assert np.abs(shares - expected).max() < 5 * np.sqrt(expected.max() / len(found))
    assert (found.feature < widths[found.layer]).all()
    assert set(found.bit.tolist()) == set(range(32))


@needs_pytorchfi
@pytest.mark.parametrize("batch", [1, 4])
def test_pytorchfi_changes_the_element_that_the_site_names(batch: int) -> None:
    model, images = toy()
    layers, found = some_faults(model, 40)
    sites, index = lists.neuron_places(found, layers, model.config)
    theirs = peer_pytorchfi.PyTorchFI(model, images, layers, batch).outputs(found)
    for row in range(len(found)):
        image = images[found.image[row]]
        mine = faulty_at_site(model, image, sites[row], int(index[row]), int(found.bit[row]))
        np.testing.assert_allclose(theirs[row], mine[0], rtol=1e-3, atol=1e-5)


@needs_pytorchfi
@needs_mrfi
def test_mrfi_gives_the_verdicts_that_pytorchfi_gives() -> None:
    model, images = toy()
    layers, found = some_faults(model, 60)
    tolerance = Tolerance(1e-4, 1e-4)
    theirs = peer_pytorchfi.PyTorchFI(model, images, layers, 4).neurons(found, tolerance)
    mrfi = peer_mrfi.Mrfi(model, images, layers, 4).neurons(found, model.config.tokens, tolerance)
    assert (theirs == mrfi).all()
    assert {MASKED, SDC} <= set(theirs.tolist())


@needs_pytorchfi
def test_pytorchfi_changes_the_weight_that_the_site_names() -> None:
    model, images = toy()
    layers = lists.linear_layers(model.config)
    found = lists.weight_faults(layers, 12, seed=2)
    sites, index = lists.weight_places(found, layers)
    tolerance = Tolerance(1e-4, 1e-4)
    theirs = peer_pytorchfi.PyTorchFI(model, images, layers, 3).weights(found, tolerance)
    with torch.inference_mode():
        golden = model(torch.from_numpy(images))
    for row in range(len(found)):
        words = model.get_parameter(sites[row]).detach().numpy().reshape(-1).view(np.uint32)
        words[index[row]] ^= np.uint32(1 << int(found.bit[row]))
        with torch.inference_mode():
            mine = judged(model(torch.from_numpy(images)), golden, tolerance)
        words[index[row]] ^= np.uint32(1 << int(found.bit[row]))
        assert (theirs[row] == mine).all(), sites[row]


# ---- the ceiling


def test_macs_are_those_that_pytorch_counts() -> None:
    model, images = toy()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.from_numpy(images[:1]))
    assert 2 * Work(model.config).total == counter.get_total_flops()


def test_nothing_is_left_of_a_fault_exactly_where_the_output_does_not_depend_on_it() -> None:
    model, images = toy()
    layers, found = some_faults(model, 400)
    sites, index = lists.neuron_places(found, layers, model.config)
    seen: dict[str, torch.Tensor] = {}
    for name, tap in taps(model).items():
        tap.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output}))
    output = model(torch.from_numpy(images[:1])).square().sum()
    names = list(dict.fromkeys(sites))
    gradient = dict(zip(names, torch.autograd.grad(output, [seen[name] for name in names]), strict=True))
    reached = [bool(gradient[site].reshape(-1)[place] != 0) for site, place in zip(sites, index, strict=True)]
    left = shares_left(model.config, layers, found)
    assert ((left > 0) == np.array(reached)).all()
    assert 0 < np.mean(reached) < 1


def test_less_is_left_the_later_a_fault_comes() -> None:
    model, _ = toy()
    layers = lists.linear_layers(model.config)
    work = Work(model.config)
    by_part: dict[str, list[int]] = {}
    for layer in layers:
        by_part.setdefault(layer.name, []).append(work.left(layer, 0, 0))
    assert all(earlier > later > 0 for parts in by_part.values() for earlier, later in pairwise(parts))
    assert max(max(parts) for parts in by_part.values()) < work.total


def test_less_is_left_the_later_a_faulty_weight_is_and_more_than_of_one_neuron() -> None:
    model, _ = toy()
    layers = lists.linear_layers(model.config)
    work = Work(model.config)
    by_part: dict[str, list[int]] = {}
    for layer in layers:
        by_part.setdefault(layer.name, []).append(work.left_by_weight(layer, 0))
    assert all(earlier > later > 0 for parts in by_part.values() for earlier, later in pairwise(parts))
    assert max(max(parts) for parts in by_part.values()) < work.total
    assert all(work.left_by_weight(layer, 0) > work.left(layer, 0, 0) for layer in layers)


def test_work_left_by_a_weight_of_a_block_of_one_token_model_is_what_its_products_are() -> None:
    """Of the last fc2 only one column is left, and the head."""
    model, _ = toy()
    config, layers = model.config, lists.linear_layers(model.config)
    last = layers[-1]
    assert last.name == "mlp.fc2"
    rows = 1 if config.pooling == "cls" else config.tokens
    faults = lists.WeightFaults(np.array([len(layers) - 1]), np.array([0]), np.array([0]), np.array([3]))
    left = rows * config.mlp[-1] + config.width * config.classes
    assert weight_shares_left(config, layers, faults)[0] * Work(config).total == pytest.approx(left)


# ---- verdicts and clocks


def test_verdicts() -> None:
    golden = torch.tensor([[1.0, 2.0, 0.0]]).repeat(5, 1)
    faulty = golden.clone()
    faulty[1, 0] += 1e-6
    faulty[2, 0] += 0.1
    faulty[3, 0] += 5
    faulty[4, 2] = torch.nan
    assert judged(faulty, golden, Tolerance(1e-4, 0)).tolist() == [MASKED, MASKED, SDC, SDC1, SDC1]
    assert judged(faulty[..., None], golden[..., None], Tolerance(1e-4, 0)).tolist() == [MASKED, MASKED, SDC, SDC, SDC]


def test_disagreements_are_listed() -> None:
    both = {"ours_nonfinite": False, "theirs_nonfinite": False}
    found = agreement(np.array([0, 1, 2, 0], np.int8), np.array([0, 2, 2, 0], np.int8), lambda row: both | {"row": row})
    assert found["agreement"] == 0.75
    assert found["disagreements"] == [{"ours": "outside tolerance", "theirs": "top-1 changed", **both, "row": 1}]
    assert found["agreement_of_finite"] == 0.75


def test_a_nan_of_one_side_only_is_told_apart() -> None:
    ours, theirs = np.array([1, 0, 1, 0], np.int8), np.array([2, 0, 2, 0], np.int8)
    found = agreement(ours, theirs, lambda row: {"ours_nonfinite": False, "theirs_nonfinite": row == 0})
    assert found["agreement"] == 0.5
    assert found["agreement_of_finite"] == pytest.approx(2 / 3)
    assert len(found["disagreements"]) == 2


def test_a_ratio_is_the_median_of_the_repeats_ratios() -> None:
    ours = [Timing(100, 1.0, 9.0), Timing(100, 2.0, 9.0), Timing(100, 4.0, 9.0)]
    theirs = [Timing(10, 1.0, 9.0), Timing(10, 1.0, 9.0), Timing(10, 4.0, 9.0)]
    assert ratio(ours, theirs).median == 10.0
    assert ratio(ours, theirs, scale=0.5).high == 5.0


# ---- the tool


def tool(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["bench_pytorchfi.py", *arguments])
    bench_pytorchfi.main()
    return capsys.readouterr().out


TOY = (
    "--model",
    "digits",
    "--engine",
    "ort-cpu",
    "--batch",
    "4",
    "--images",
    "3",
    "--faults",
    "40",
    "--repeats",
    "2",
    "--evaluation",
    "whole",
)


@needs_pytorchfi
def test_the_record_holds_what_is_asked_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(tool(capsys, monkeypatch, *TOY, "--json"))
    assert (found["model"], found["threads"], found["repeats"]) == ("digits", 1, 2)
    assert found["outcome_agreement"] >= 0.99
    for key in ("ratio_batch1", "ratio_best_batch", "ceiling_share", "ratio_batch1_no_dead_site"):
        assert found["neuron"][key] > 0
    assert found["neuron"]["dead_site_share"] > 0
    assert found["weight"]["ratio"] > 0
    assert found["weight"]["images_per_fault"] == 3
    assert found["weight"]["ceiling_share"] > 0
    assert found["weight"]["ratio_declared_per_image"] > 0
    assert {"incremental_ratio_best_batch", "exact_ratio_best_batch"} <= found["attention"].keys()
    timings = found["raw"]["neuron"]["ours ort-cpu"]["timings"]
    assert [one["injections"] for one in timings] == [40, 40]
    peer = found["raw"]["neuron"]["pytorchfi batch 1"]["timings"]
    assert sum(one["injections"] for one in peer) == 40


def test_without_pytorchfi_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_pytorchfi, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["bench_pytorchfi.py", *TOY])
    with pytest.raises(SystemExit, match=r"error: PyTorchFI is not installed: pip install"):
        bench_pytorchfi.main()


def test_an_unknown_model_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_pytorchfi, "available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["bench_pytorchfi.py", "--model", "huge"])
    with pytest.raises(SystemExit, match=r"error: unknown model preset 'huge'"):
        bench_pytorchfi.main()
