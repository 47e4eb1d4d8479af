"""The steps of TensorRT's runner, on a stand-in for the library. The contract's tests ask the rest of it, marked gpu."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from testbed.core.errors import EngineError
from testbed.core.fault import masks_for
from testbed.core.folder.files import sha256_bytes
from testbed.core.formats import FP32
from testbed.engines import cuda
from testbed.engines.runner import faulty_weight
from testbed.engines.signature import loaded, signature_of
from testbed.engines.tensorrt import runner as tensorrt
from testbed.engines.tensorrt.build import Build, profile_shape
from testbed.engines.tensorrt.runner import TensorRtRunner
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from tests.engines.cuda_emulation.host_driver import HostDriver
from tests.support.engine_requests import asked
from tests.support.fake_tensorrt import FakeTensorRt, run
from tests.support.tensorrt_models import IMAGES, Exported


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[FakeTensorRt]:
    class Library(FakeTensorRt):
        pass

    def plan(model: bytes, sha: str, build: Build, device: str) -> bytes:
        proto = loaded(model)
        for tensor in proto.graph.initializer:
            if build.refittable and tensor.name in Library.lost:
                zeros = np.zeros(tuple(tensor.dims), np.float32)
                tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
        return proto.SerializeToString()

    monkeypatch.setattr(tensorrt, "tensorrt_library", lambda backend: Library())
    monkeypatch.setattr(tensorrt, "cached_plan", plan)
    monkeypatch.setattr(tensorrt, "gpu_name", lambda: "a GPU")
    monkeypatch.setattr(cuda, "open_driver", lambda number, binding: HostDriver())
    return Library


def test_an_engine_computes_and_tells_what_it_is(stand_in: Any, model: bytes) -> None:
    with TensorRtRunner(asked(model)) as runner:
        for rows in (8, 3):
            (expected,) = run(model, {"image": IMAGES[:rows]}).values()
            np.testing.assert_array_equal(runner.run({"image": IMAGES[:rows]})["head"], expected)
        info = runner.info
    assert (info.backend, info.versions) == ("tensorrt", {"tensorrt": "99.0"})
    assert info.options["gpu"] == "a GPU"
    assert info.options["plan_sha256"] == sha256_bytes(model)
    runner.close()
    with pytest.raises(EngineError, match="closed"):
        runner.run({"image": IMAGES})


def test_weights_are_refitted_and_restored(stand_in: Any, model: bytes) -> None:
    with TensorRtRunner(asked(model, mutable_weights=True)) as runner:
        golden = runner.run({"image": IMAGES})["head"]
        with faulty_weight(runner, "head.bias", 1, masks_for("flip", FP32, 30)):
            assert (runner.run({"image": IMAGES})["head"][:, 1] != golden[:, 1]).all()
        np.testing.assert_array_equal(runner.run({"image": IMAGES})["head"], golden)


def test_a_refittable_engine_that_lost_a_bias_is_found_before_any_fault(stand_in: Any, exported: Exported) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(exported("pre-norm"))
    (bias,) = (t for t in proto.graph.initializer if t.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "head.bias"))
    stand_in.lost = {"head.bias"}
    with pytest.raises(EngineError, match=r"the refittable engine's head is .* off the plain engine's with no weight"):
        TensorRtRunner(asked(proto.SerializeToString(), mutable_weights=True))


def test_weights_that_tensorrt_does_not_give_out_are_refused_by_name(stand_in: Any, model: bytes) -> None:
    stand_in.fused = {"block.0.norm1.weight"}
    with TensorRtRunner(asked(model, mutable_weights=True)) as runner:
        with pytest.raises(EngineError, match=r"'block\.0\.norm1\.weight' cannot be struck here: TensorRT fused it"):
            runner.weight("block.0.norm1.weight")
        runner.weight("head.bias")
        stand_in.missing = ["block.0.attn.q"]
        with pytest.raises(EngineError, match=r"TensorRT wants block\.0\.attn\.q refitted together with head\.bias"):
            runner.weight_changed("head.bias")
    with TensorRtRunner(asked(model)) as fixed, pytest.raises(EngineError, match="without mutable weights"):
        fixed.weight("head.bias")


def test_a_batch_that_the_engine_was_not_built_for_is_refused(stand_in: Any, model: bytes) -> None:
    with TensorRtRunner(asked(model, max_batch=4)) as runner:
        runner.run({"image": IMAGES[:4]})
        with pytest.raises(EngineError, match="a batch of 8 is more than the 4 this engine was built for"):
            runner.run({"image": IMAGES})


def test_faults_of_more_elements_than_the_engine_was_built_for_are_refused(stand_in: Any, model: bytes) -> None:
    table = site_table(model, "model")
    twin = instrument(model, table).SerializeToString()
    with (
        TensorRtRunner(asked(twin, max_points=2)) as runner,
        pytest.raises(EngineError, match="faults of 3 elements are more than the 2 this engine was built for"),
    ):
        runner.run({"image": IMAGES, **PortFeed.idle(len(IMAGES), 3).as_inputs(table)})


def test_a_profile_spans_from_one_row_and_point_to_the_most(model: bytes) -> None:
    table = site_table(model, "model")
    signature = signature_of(loaded(instrument(model, table).SerializeToString()))
    sites = next(value for value in signature.inputs if value.name == "fault_site")
    build = Build("tensorrt", max_batch=8, max_points=5)
    assert [profile_shape(sites, *sizes) for sizes in build.sizes] == [(1, 1), (8, 5), (8, 5)]


def test_a_run_that_fails_is_an_engine_error(stand_in: Any, model: bytes) -> None:
    with TensorRtRunner(asked(model)) as runner:
        stand_in.runs = False
        with pytest.raises(EngineError, match="TensorRT failed"):
            runner.run({"image": IMAGES})
