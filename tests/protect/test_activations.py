"""Activation functions computed a second time: what the check sees, that engines keep it, and that it cannot be false."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from scipy.special import erf, expit

from testbed.core.errors import GateFailed
from testbed.core.fault import Masks
from testbed.core.protected import DETECTED, PREFIX
from testbed.data import load
from testbed.export.target import export_target
from testbed.models.config import Activation
from testbed.models.vit import ViT
from testbed.protect.build import Protected, protect
from testbed.protect.checks.activations import TANH_LESS_EXACT, ActivationCheck, is_computed_twice
from testbed.protect.checks.relation import RECOMPUTED
from testbed.protect.contract import CalibrationSet
from testbed.protect.ensure import ensure, optimised_by_onnxruntime
from testbed.protect.named import passes_named
from testbed.protect.observe import run_all
from testbed.protect.passes.checksum import ChecksumPass
from testbed.testing import InstrumentedModel
from tests.protect.conftest import CONFIG, some_images

ENGINES = ("ort-cpu", "openvino")
SITE = "block.0.mlp.gelu"


def tanh_gelu(x: NDArray) -> NDArray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


FUNCTIONS: Mapping[str, Callable[[NDArray], NDArray]] = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": tanh_gelu,
    "quick_gelu": lambda x: x * expit(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * expit(x),
}


@pytest.fixture(scope="module", params=get_args(Activation))
def activated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Protected]:
    """An activation function, and the protected file of a model that has it."""
    torch.manual_seed(0)
    model = ViT(replace(CONFIG, activation=request.param)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return request.param, protected_on(export_target(model, "model", tmp_path_factory.mktemp("plain") / "model.onnx"))


@pytest.fixture(scope="module")
def checked(plain: ModelProto) -> Protected:
    return protected_on(plain)


def protected_on(
    plain: ModelProto, how: ActivationCheck = "recompute", engines: tuple[str, ...] = ENGINES
) -> Protected:
    return protect(plain, [ChecksumPass(activations=how)], CalibrationSet(some_images(48, 1), engines, "fp32"))


def with_output(proto: ModelProto, *names: str) -> ModelProto:
    typed = {value.name: value for value in proto.graph.value_info}
    watched = ModelProto()
    watched.CopyFrom(proto)
    watched.graph.output.extend(typed[name] for name in names)
    return watched


def alarms_of(proto: ModelProto, engine: str, shift: float) -> NDArray[np.bool_]:
    """Alarms on 4 images, of which the first two have ``shift`` added to an element of the activation's output."""
    model = InstrumentedModel.of_onnx(proto.SerializeToString())
    element = next(site.elements for site in model.sites if site.name == SITE) // 2
    images = some_images(4, 3)
    values = run_all(with_output(proto, SITE), images, engine, "fp32", 4)[SITE].reshape(4, -1)[:, element]
    words = (values + np.array([shift, shift, 0, 0], np.float32)).view(np.uint32)
    with model.open_twin(engine, max_batch=4) as twin:
        faults = model.fault(SITE, np.full(4, element), Masks(0, 0, 0), np.zeros(4, np.float32))
        return np.asarray(twin.run(model.feeds(images, replace(faults, or_mask=words[:, None])))[DETECTED])


def test_the_check_holds_what_numpy_says(activated: tuple[str, Protected]) -> None:
    """Its value is the largest difference of sums over tokens: of tanh's GELU and the exact one, or of two equal ones."""
    name, checked = activated
    prefix = f"{PREFIX}checksum.block.0.{SITE}"
    watched = with_output(checked.proto, "block.0.mlp.fc1", SITE, f"{prefix}.largest")
    results = run_all(watched, some_images(6, 5), "ort-cpu", "fp32")
    taken, made = (results[tensor].astype(np.float64) for tensor in ("block.0.mlp.fc1", SITE))
    np.testing.assert_allclose(made, FUNCTIONS[name](taken), atol=1e-5)
    off = np.zeros((6, 32))
    if name == "gelu":
        off = (tanh_gelu(taken) - FUNCTIONS[name](taken)).sum(1) - 17 * np.mean(TANH_LESS_EXACT)
    np.testing.assert_allclose(results[f"{prefix}.largest"].ravel(), np.abs(off).max(1), atol=1e-5)
    place = next(place for place in checked.applied[0].places if place.name == SITE)
    assert place.kind == RECOMPUTED


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fault_inside_the_range_raises_the_alarm(activated: tuple[str, Protected], engine: str) -> None:
    for shift in (0.05, -0.05):
        assert alarms_of(activated[1].proto, engine, shift).tolist() == [True, True, False, False]


def test_a_range_of_sums_does_not_see_it(plain: ModelProto) -> None:
    ranged = protected_on(plain, "range", ("ort-cpu",))
    assert not alarms_of(ranged.proto, "ort-cpu", 0.05).any()
    assert alarms_of(ranged.proto, "ort-cpu", 1e4).tolist() == [True, True, False, False]


def test_the_bound_between_both_gelus_holds_everywhere_and_is_no_wider() -> None:
    x = np.concatenate([np.linspace(-30, 30, 3_000_001), -np.logspace(-30, 30, 10_001), np.logspace(-30, 30, 10_001)])
    difference = tanh_gelu(x) - FUNCTIONS["gelu"](x)
    low, high = TANH_LESS_EXACT
    assert low <= difference.min() <= 0.999 * low
    assert 0.999 * high <= difference.max() <= high


def test_no_image_however_large_raises_a_false_alarm(checked: Protected) -> None:
    images = np.concatenate([scale * some_images(32, 7) for scale in (0.0, 0.1, 1.0, 3.0)])
    value = f"{PREFIX}checksum.block.0.{SITE}.largest"
    high = next(place.high for place in checked.applied[0].places if place.name == SITE)
    for engine in ENGINES:
        assert run_all(with_output(checked.proto, value), images, engine, "fp32")[value].max() <= high


def test_onnx_runtime_keeps_both(activated: tuple[str, Protected]) -> None:
    assert all(
        is_computed_twice(optimised_by_onnxruntime(activated[1].proto), f"block.{block}.mlp.gelu") for block in (0, 1)
    )


def test_a_function_that_an_engine_merges_is_refused(plain: ModelProto) -> None:
    """Were the second one computed from the same tensor by the same node, ONNX Runtime would compute it once."""
    unseen = load("digits").test.chosen(16, 0, "unseen")
    checked = protect(
        plain, [ChecksumPass()], CalibrationSet(load("digits").train.batch(np.arange(16)), ("ort-cpu",), "fp32")
    )
    for node in checked.proto.graph.node:
        if node.output[0].endswith(f".{SITE}.again"):
            del node.attribute[:]
    with pytest.raises(GateFailed, match=r"ONNX Runtime computes block\.0\.mlp\.gelu once"):
        ensure(plain, widened(checked), unseen, ("ort-cpu",), "fp32")


def widened(checked: Protected) -> Protected:
    """Without false alarms, which the exact function less a bound for tanh's would raise."""
    for tensor in checked.proto.graph.initializer:
        if tensor.name == f"{PREFIX}checksum.block.0.high":
            high = 0.1 + onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(high, tensor.name))
    return checked


def test_an_activation_check_is_named() -> None:
    (step,) = passes_named(["checksum"], {}, activations="range")
    assert step.settings["activations"] == "range"
