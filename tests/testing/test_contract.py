"""The contract check: real engines keep it, and each broken promise is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.core.errors import EngineError
from testbed.engines.onnxruntime.cpu import OrtCpuRunner
from testbed.testing import FP32, EngineRequest, InstrumentedModel, check_engine_contract, masks_for


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> InstrumentedModel:
    return InstrumentedModel.of_onnx((tiny_run / "model.onnx").read_bytes())


@pytest.fixture(scope="module")
def images(tiny_run: Path) -> NDArray[np.float32]:
    return np.load(tiny_run / "inputs" / "model.npy")[:4]


@pytest.mark.parametrize("engine", ["ort-cpu", "torch", OrtCpuRunner])
def test_engines_keep_it(engine: Any, model: InstrumentedModel, images: NDArray[np.float32]) -> None:
    assert check_engine_contract(engine, model, images) == []


def broken(run: Callable[[OrtCpuRunner, Any], Any]) -> type[OrtCpuRunner]:
    return type("Broken", (OrtCpuRunner,), {"run": run})


def drifting(runner: Any, feeds: Any) -> Any:
    runner.runs = getattr(runner, "runs", 0) + 1
    with np.errstate(all="ignore"):
        return {name: value + np.float32(runner.runs) for name, value in OrtCpuRunner.run(runner, feeds).items()}


def overwriting(runner: Any, feeds: Any) -> Any:
    outputs = OrtCpuRunner.run(runner, feeds)
    buffers = runner.__dict__.setdefault("buffers", {})
    for name, value in outputs.items():
        np.copyto(buffers.setdefault(name, value.copy()), value)
    return buffers


def immortal(runner: Any, feeds: Any) -> Any:
    try:
        return OrtCpuRunner.run(runner, feeds)
    except EngineError:
        return {"logits": np.zeros((4, 10), np.float32)}


def constant(runner: Any, feeds: Any) -> Any:
    first: dict[str, Any] = runner.__dict__.setdefault("first", OrtCpuRunner.run(runner, feeds))
    return {name: value.copy() for name, value in first.items()}


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (drifting, "the same feeds give other bits in a second run"),
        (overwriting, "a later run overwrites the outputs of an earlier one"),
        (immortal, "a closed engine runs"),
        (immortal, "images of another shape are not refused"),
        (constant, "flip of bit 0 in"),
        (constant, "has no effect"),
    ],
)
def test_a_broken_promise_is_named(
    run: Callable[[Any, Any], Any], line: str, model: InstrumentedModel, images: NDArray[np.float32]
) -> None:
    assert any(line in told for told in check_engine_contract(broken(run), model, images))


def test_a_twin_is_fed_images_and_faults(model: InstrumentedModel, images: NDArray[np.float32]) -> None:
    with model.open_twin("ort-cpu") as twin, model.open_plain("ort-cpu") as plain:
        golden = twin.run(model.feeds(images))[model.output_name]
        np.testing.assert_array_equal(golden, plain.run({model.input_name: images})[model.output_name])
        index = np.array([3, 3, 0, 9])
        fault = model.fault(model.output_name, index, masks_for("flip", FP32, 31), golden[np.arange(4), index])
        faulty = twin.run(model.feeds(images, fault))[model.output_name]
    expected = golden.copy()
    expected[np.arange(4), index] *= -1
    np.testing.assert_array_equal(faulty, expected)


def test_requests_are_of_the_file(model: InstrumentedModel) -> None:
    seen: list[EngineRequest] = []

    def build(request: EngineRequest) -> Any:
        seen.append(request)
        return OrtCpuRunner(request)

    with model.open_plain(build, threads=2):
        pass
    assert (seen[0].onnx, seen[0].threads, seen[0].precision) == (model.plain, 2, "fp32")
