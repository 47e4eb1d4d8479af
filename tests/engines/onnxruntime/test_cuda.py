"""The CUDA provider: what can be checked without a GPU. The contract's tests ask the rest of it, marked gpu."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from testbed.core.errors import EngineError
from testbed.core.fault import masks_for
from testbed.core.formats import FORMATS, FP32
from testbed.engines import availability
from testbed.engines.backends import available
from testbed.engines.gpu import cuda_devices
from testbed.engines.onnxruntime import cuda as onnxruntime_cuda
from testbed.engines.onnxruntime.cpu import ort_value
from testbed.engines.onnxruntime.cuda import PROVIDER, OrtCudaRunner
from testbed.engines.runner import EngineRequest, faulty_weight, open_engine
from testbed.instrument.ports.feed import DTYPES
from testbed.instrument.ports.insertion import ELEMENTS
from testbed.semantics import as_words

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def product(**settings: Any) -> EngineRequest:
    """y = x @ w + b"""
    w, b = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 3), ("y", 4)))
    graph = helper.make_graph(
        nodes, "product", [x], [y], [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return EngineRequest(model.SerializeToString(), "sha", "id", **settings)


class OnTheCpu(OrtCudaRunner):
    """The same runner on the provider that every machine has."""

    provider = "CPUExecutionProvider"
    device = "cpu"


@pytest.fixture
def copied_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of its own memory, as a GPU is: what is not copied there does not act."""

    def upload(array: NDArray, device: str = "cpu") -> Any:
        return ort_value(array.copy(), device)

    monkeypatch.setattr(onnxruntime_cuda, "ort_value", upload)


def test_weights_are_copied_to_the_device_when_they_change(copied_to_the_device: None) -> None:
    with OnTheCpu(product(mutable_weights=True)) as runner:
        golden = runner.run({"x": X})["y"]
        np.testing.assert_array_equal(golden, X @ np.arange(12).reshape(3, 4) + 1)
        with faulty_weight(runner, "w", 11, masks_for("flip", FP32, 31)):
            assert (runner.run({"x": X})["y"][:, 3] != golden[:, 3]).all()
        with faulty_weight(runner, "b", 0, masks_for("flip", FP32, 31)):
            np.testing.assert_array_equal(runner.run({"x": X})["y"] - golden, [[-2, 0, 0, 0]] * 2)
        assert runner.run({"x": X})["y"].tobytes() == golden.tobytes()


def test_an_engine_as_deployed_keeps_its_weights() -> None:
    with OnTheCpu(product()) as runner:
        np.testing.assert_array_equal(runner.run({"x": X})["y"], X @ np.arange(12).reshape(3, 4) + 1)
        with pytest.raises(EngineError, match="without mutable weights"):
            runner.weight("w")


@pytest.mark.parametrize("name", FORMATS)
def test_arrays_of_every_format_come_back_as_they_are(name: str) -> None:
    """bfloat16 included, which ONNX Runtime and NumPy do not exchange by themselves."""
    x, y = (helper.make_tensor_value_info(value, ELEMENTS[name], ["n", 4]) for value in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copy", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    dtype = DTYPES[name]
    words = np.array(
        [[0, 1, 2 ** (8 * dtype.itemsize) - 1, 1 << (8 * dtype.itemsize - 1)]], f"uint{8 * dtype.itemsize}"
    )
    with OnTheCpu(EngineRequest(model.SerializeToString(), "sha", "id")) as runner:
        found = runner.run({"x": words.view(dtype)})["y"]
    assert found.dtype == dtype
    assert as_words(found).tolist() == words.tolist()


# ---- without a GPU

no_gpu = pytest.mark.skipif(bool(cuda_devices()[0]), reason="this machine has a GPU")


@no_gpu
def test_the_first_line_says_what_is_missing() -> None:
    usable, reason = available("ort-cuda")
    assert not usable
    assert "driver" in reason or "no CUDA provider" in reason
    with pytest.raises(EngineError, match="engine 'ort-cuda' cannot run here: "):
        open_engine("ort-cuda", product())


def test_a_build_without_cuda_says_which_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    usable, reason = available("ort-cuda")
    assert not usable
    assert "has no CUDA provider: pip uninstall onnxruntime, then pip install onnxruntime-gpu" in reason


@no_gpu
def test_falling_back_to_the_cpu_is_an_error_and_not_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    if PROVIDER not in ort.get_available_providers():
        pytest.skip("this build of onnxruntime has no CUDA provider that could fall back")
    devices = ["a GPU"], ""  # but without the CUDA libraries
    monkeypatch.setattr(availability, "cuda_devices", lambda: devices)
    with pytest.raises(EngineError, match="fell back to CPUExecutionProvider although CUDAExecutionProvider was asked"):
        open_engine("ort-cuda", product())
