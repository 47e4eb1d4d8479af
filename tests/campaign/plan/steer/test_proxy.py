"""Proxies: what is known of a fault before it is run, against what the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from testbed.campaign.plan.draw import strata
from testbed.campaign.plan.groups import grouped
from testbed.campaign.plan.steer.proxy import Sample, score, scores
from testbed.campaign.prepare.proxy_samples import PROXY, model_samples
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.spec.faults import FaultSpec
from testbed.core.errors import UsageError
from testbed.core.fault import Op
from testbed.core.formats import format_named
from testbed.core.site import Site, SiteTable
from testbed.models.presets import preset
from testbed.models.vit import ViT, taps

FP32 = format_named("fp32")
VALUES = np.array([1.0, -1.0, 3.0, 0.5, -2.0, 0.0])
SAMPLE = Sample(VALUES, np.array([0.1, 0.1, -0.2, 0.0, 0.0, 0.3]))


def test_magnitude_is_how_far_the_flip_moves_the_value() -> None:
    rms = np.sqrt(np.mean(VALUES**2))
    distance = 2 * np.abs(VALUES) / rms  # the sign
    assert score("magnitude", SAMPLE, FP32, "flip", 31) == pytest.approx(np.mean(distance / (1 + distance)))
    assert score("magnitude", SAMPLE, FP32, "flip", 0) < 1e-6
    assert score("magnitude", SAMPLE, FP32, "flip", 30) > 0.7
    assert score("magnitude", SAMPLE, FP32, "stuck0", 30) < score("magnitude", SAMPLE, FP32, "stuck1", 30)


def test_the_gradient_weighs_what_matters() -> None:
    distance = np.abs(SAMPLE.slope * 2 * VALUES)
    assert score("gradient", SAMPLE, FP32, "flip", 31) == pytest.approx(np.mean(distance / (1 + distance)))
    flat = Sample(VALUES, np.zeros(6))
    assert score("gradient", flat, FP32, "flip", 31) == 0
    assert score("gradient", flat, FP32, "flip", 30) == pytest.approx(2 / 6)  # +-1 becomes infinite


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("op", ["flip", "stuck0", "stuck1", "random"])
def test_scores_are_shares_whatever_the_values(name: str, op: Op) -> None:
    fmt = format_named(name)
    odd = Sample(np.array([np.inf, -np.inf, np.nan, 1e30, 0.0, -1e-40]), np.array([0.0, 1, 1, 1e30, 0, np.inf]))
    for bit in (None,) if op == "random" else range(fmt.bits):
        for proxy in ("magnitude", "gradient"):
            with np.errstate(all="ignore"):
                assert 0 <= score(proxy, odd, fmt, op, bit) <= 1


def test_a_group_has_the_mean_score_of_its_faults() -> None:
    table = SiteTable("model", "id", "gated_replace", (Site("a", "activation", (10,)), Site("b", "activation", (30,))))
    samples = {("a", "activation"): SAMPLE, ("b", "activation"): Sample(VALUES * 100, SAMPLE.slope)}
    spec = FaultSpec(target="model", where="activation", ops=("flip",), bits=(0, 31))
    (group,) = grouped(strata(spec, table, [["x", "y"]]), ())
    each = [score("gradient", samples[site, "activation"], FP32, "flip", bit) for site in "ab" for bit in (0, 31)]
    assert scores("gradient", samples)([group])[0] == pytest.approx(np.average(each, weights=[10, 10, 30, 30]))


@pytest.fixture(scope="module")
def model() -> ViT:
    torch.manual_seed(0)
    model = ViT(preset("digits", heads=[2, 2], mlp=[32, 32], width=16, head_width=8)).eval()
    with torch.no_grad():  # biases that differ: a sampled value is found again by what it is
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def lead_of(model: ViT, image: torch.Tensor) -> float:
    try:
        with torch.inference_mode():
            first, second = model.double()(image.double()).topk(2).values[0]
    finally:
        model.float()
    return float(first - second)


def test_slopes_are_how_the_lead_answers_to_a_value(model: ViT) -> None:
    """Of every site: one value is moved a little in float64, and the lead looked at."""
    image = np.random.default_rng(1).standard_normal((1, 1, 8, 8)).astype(np.float32)
    samples, lead, step = model_samples(model, image), lead_of(model, torch.from_numpy(image)), 1e-5
    checked = 0
    for site, tap in taps(model).items():
        sample = samples[site, "activation"]

        def move(_: Any, __: Any, output: torch.Tensor, sample: Sample = sample) -> torch.Tensor:
            moved = output.contiguous().clone()
            at = int((moved.flatten() - sample.values[0]).abs().argmin())
            moved.view(-1)[at] += step
            return moved

        handle = tap.register_forward_hook(move)
        found = (lead_of(model, torch.from_numpy(image)) - lead) / step / lead
        handle.remove()
        assert found == pytest.approx(sample.slope[0], rel=5e-3, abs=1e-3), site
        checked += 1
    assert checked > 20


def test_slopes_of_weights_are_those_of_the_mean_lead(model: ViT) -> None:
    images = np.random.default_rng(2).standard_normal((3, 1, 8, 8)).astype(np.float32)
    samples, step = model_samples(model, images), 1e-5
    leads = [lead_of(model, torch.from_numpy(image[None])) for image in images]
    for name, parameter in list(model.named_parameters())[::5]:
        sample, flat = samples[name, "weight"], parameter.detach().view(-1)
        at = int((flat.double() - sample.values[0]).abs().argmin())
        model.double()
        with torch.no_grad():
            dict(model.named_parameters())[name].view(-1)[at] += step
        with torch.inference_mode():
            tops = model(torch.from_numpy(images).double()).topk(2).values
        with torch.no_grad():
            dict(model.named_parameters())[name].view(-1)[at] -= step
        model.float()
        moved = float((tops[:, 0] - tops[:, 1]).sum())
        assert (moved - sum(leads)) / step / sum(leads) == pytest.approx(sample.slope[0], rel=1e-2, abs=1e-3), name


def test_samples_are_the_same_each_time(model: ViT) -> None:
    image = np.zeros((2, 1, 8, 8), np.float32)
    for one, other in zip(model_samples(model, image).values(), model_samples(model, image).values(), strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.slope, other.slope)


@pytest.mark.parametrize("change", [{"model": {"onnx": "vit.onnx"}}, {"engine": {"precision": "int8"}}])
def test_foreign_and_quantised_models_have_no_proxy(tiny_values: dict[str, Any], change: dict[str, Any]) -> None:
    values = tiny_values | {"stop": {"margin": 0.1, "proxy": "magnitude"}} | change
    values["faults"] = [{"target": "model", "where": "activation", "bits": [3]}]
    with pytest.raises(UsageError, match=r"stop\.proxy: guesses need a model of the testbed"):
        parse_spec(values)


@pytest.mark.parametrize("proxy", ["magnitude", "gradient"])
def test_a_steered_campaign_runs_to_its_margin_and_keeps_its_scores(
    tiny_values: dict[str, Any], run_spec: Any, tmp_path: Path, proxy: str
) -> None:
    section = {"target": "model", "where": "activation", "sites": ["*.mlp.*", "head"], "ops": ["flip"]}
    values = tiny_values | {"stop": {"margin": 0.05, "proxy": proxy}, "faults": [section]}
    summary = run_spec(parse_spec(values), tmp_path / "run")
    assert (tmp_path / "run" / PROXY).exists()
    assert summary.faults > 50
