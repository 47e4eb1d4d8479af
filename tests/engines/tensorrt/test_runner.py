"""TensorRT: engines really built ahead of time with TensorRT-RTX where that is installed (mark rtx), and the runner's
steps on a stand-in for the library where there is no GPU. The contract's tests ask the rest of it, marked gpu."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from testbed.core.errors import EngineError
from testbed.core.fault import masks_for
from testbed.core.folder.files import sha256_bytes
from testbed.core.formats import FP32
from testbed.engines import cuda
from testbed.engines.backends import available
from testbed.engines.gpu import cuda_devices
from testbed.engines.runner import EngineRequest, faulty_weight
from testbed.engines.signature import loaded, signature_of
from testbed.engines.tensorrt import build as tensorrt_build
from testbed.engines.tensorrt import runner as tensorrt
from testbed.engines.tensorrt.build import (
    Build,
    _sized,
    build_ahead_of_time,
    cached_plan,
    deserialised,
    explain,
    logger_for,
    tensorrt_library,
)
from testbed.engines.tensorrt.runner import TensorRtRunner
from testbed.engines.torch.runner import TorchRunner
from testbed.export.onnx import export_onnx
from testbed.export.precision import Calibration, cast_model, quantise
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from testbed.models.config import ViTConfig
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT

IMAGES = np.random.default_rng(0).standard_normal((8, 1, 4, 4)).astype(np.float32)
BASE: dict[str, Any] = {"image": 4, "patch": 2, "channels": 1, "width": 8, "classes": 3, "head_width": 4}
MODELS = {
    "pre-norm": ViTConfig(heads=(2,), mlp=(8,), qkv_bias=True, patch_norm=True, **BASE),
    "post-norm, convolution, mean": ViTConfig(
        heads=(2,), mlp=(8,), norm_order="post", patchify="conv", pooling="mean", final_norm="none", **BASE
    ),
    "differential, 2-D": ViTConfig(heads=(2,), mlp=(8,), attention="differential", position="2d", **BASE),
}

Exported = Callable[[str], onnx.ModelProto]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Plain ONNX of one of MODELS, or of the first one's attention."""
    made: dict[str, onnx.ModelProto] = {}

    def export(name: str) -> onnx.ModelProto:
        if name not in made:
            torch.set_num_threads(1)
            torch.manual_seed(0)
            attention = name == "attention"
            model = ViT(MODELS["pre-norm" if attention else name]).eval()
            example = torch.randn(2, 5, 8) if attention else torch.from_numpy(IMAGES[:2])
            file = tmp_path_factory.mktemp("onnx") / "plain.onnx"
            target = subnetwork(model, "attention") if attention else model
            made[name] = export_onnx(target, example, file, input_name="hidden" if attention else "image")
        return made[name]

    return export


# ---- TensorRT-RTX, for real


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'testbed[rtx]'")


def twin_of(plain: onnx.ModelProto) -> bytes:
    content = plain.SerializeToString()
    return instrument(content, site_table(content, "model")).SerializeToString()


@pytest.mark.rtx
@pytest.mark.parametrize("name", [*MODELS, "attention"])
@pytest.mark.parametrize("form", ["plain", "twin"])
def test_our_exports_and_their_twins_build_without_a_gpu(rtx: Any, exported: Exported, name: str, form: str) -> None:
    plain = exported(name)
    model = twin_of(plain) if form == "twin" else plain.SerializeToString()
    assert len(build_ahead_of_time(model, Build("tensorrt-rtx", max_batch=4, max_points=16))) > 10_000


@pytest.mark.rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("form", ["plain", "twin"])
def test_every_precision_builds_without_a_gpu(rtx: Any, exported: Exported, precision: str, form: str) -> None:
    plain = exported("pre-norm")
    lowered = quantise(plain, IMAGES, Calibration(8)) if precision == "int8" else cast_model(plain, precision)
    model = twin_of(lowered) if form == "twin" else lowered.SerializeToString()
    assert len(build_ahead_of_time(model)) > 10_000


@pytest.mark.rtx
def test_a_damaged_engine_file_is_one_clear_line(rtx: Any) -> None:
    with pytest.raises(EngineError, match="TensorRT cannot use this engine file: ") as caught:
        deserialised(rtx, logger_for(rtx), b"not an engine" * 1000)
    assert "\n" not in str(caught.value)


@pytest.mark.rtx
@pytest.mark.skipif(bool(cuda_devices()[0]), reason="this machine has a GPU")
def test_a_sound_engine_file_without_a_gpu_is_one_clear_line(rtx: Any, exported: Exported) -> None:
    plan = build_ahead_of_time(exported("attention").SerializeToString())
    with pytest.raises(EngineError, match="engine file: there is no NVIDIA GPU with its driver"):
        deserialised(rtx, logger_for(rtx), plan)


@pytest.mark.rtx
def test_what_the_parser_does_not_take_is_one_line_that_names_it(rtx: Any, exported: Exported) -> None:
    content = exported("attention").SerializeToString()
    xor = instrument(content, site_table(content, "model", "xor")).SerializeToString()
    with pytest.raises(EngineError, match=r"TensorRT cannot read this model: ") as caught:
        build_ahead_of_time(xor)
    assert "\n" not in str(caught.value)


# ---- what needs neither the library nor a GPU


def test_an_operator_of_ours_is_refused_before_the_parser_sees_it(exported: Exported) -> None:
    """With the fix, which the parser would not know."""
    content = exported("attention").SerializeToString()
    twin = instrument(content, site_table(content, "model", "op")).SerializeToString()
    with pytest.raises(EngineError, match=r"no operator testbed::FaultPort here; .* mechanism gated_replace"):
        build_ahead_of_time(twin)


@pytest.mark.parametrize("name", [*MODELS, "attention"])
def test_folding_constants_for_tensorrt_changes_no_result(exported: Exported, name: str) -> None:
    plain = exported(name)
    folded = tensorrt_build._as_tensorrt_takes_it(plain)
    stored = {t.name for t in loaded(folded).graph.initializer}
    for node in loaded(folded).graph.node:
        assert node.op_type != "ReduceMean" or node.input[1] in stored
    example = np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32) if name == "attention" else IMAGES
    feeds = {plain.graph.input[0].name: example}
    (ours,), (theirs,) = (run(model, feeds).values() for model in (folded, plain.SerializeToString()))
    np.testing.assert_array_equal(ours, theirs)


def test_int32_biases_are_folded_for_tensorrt_and_change_no_result(exported: Exported) -> None:
    int8 = quantise(exported("pre-norm"), IMAGES, Calibration(8))
    folded = tensorrt_build._as_tensorrt_takes_it(int8)
    assert any(t.data_type == onnx.TensorProto.INT32 for t in int8.graph.initializer)
    whole = {t.name for t in loaded(folded).graph.initializer if t.data_type == onnx.TensorProto.INT32}
    assert not whole & {node.input[0] for node in loaded(folded).graph.node if node.op_type == "DequantizeLinear"}
    (ours,), (theirs,) = (run(model, {"image": IMAGES}).values() for model in (folded, int8.SerializeToString()))
    np.testing.assert_array_equal(ours, theirs)


def run(model: bytes, feeds: dict[str, NDArray]) -> dict[str, NDArray]:
    with TorchRunner(EngineRequest(model, "sha", "id")) as runner:
        return runner.run(feeds)


@pytest.mark.parametrize(
    ("errors", "meaning"),
    [
        (["Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed"], "damaged, or was built by another"),
        (["noise", "The engine plan file is generated on an incompatible compute capability"], "for another GPU"),
        (["cudaError 35: CUDA driver version is insufficient"], "no NVIDIA GPU with its driver"),
        (["something\n  else", "more"], "something else"),
        ([], "gives no reason"),
    ],
)
def test_errors_are_explained_in_one_line(errors: list[str], meaning: str) -> None:
    assert meaning in explain(errors)
    assert "\n" not in explain(errors)


def test_a_missing_library_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r"tensorrt_rtx does not import .*: pip install tensorrt-rtx-cu13"):
        tensorrt_library("tensorrt-rtx")
    usable, reason = available("tensorrt-rtx")
    assert not usable
    assert "pip install tensorrt-rtx-cu13" in reason


# ---- the runner, on a stand-in for the library: same calls, computed by the torch engine on host memory


class Refits(dict[str, NDArray]):
    """Weights given to an engine since it was built."""


class FakeEngine:
    def __init__(self, model: bytes, library: FakeTensorRt) -> None:
        self.model, self.library, self.refits = model, library, Refits()
        proto = loaded(model)
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.output}

    def create_execution_context(self) -> FakeEngine:
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        return self

    def get_tensor_dtype(self, name: str) -> type:
        return np.float32

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.inputs[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> list[int]:
        return [next(iter(self.inputs.values()))[0], *self.shapes[name][1:]]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        proto = loaded(self.model)
        for tensor in proto.graph.initializer:
            if tensor.name in self.refits:
                tensor.CopyFrom(numpy_helper.from_array(self.refits[tensor.name], tensor.name))
        feeds = {n: _at(self.addresses[n], shape).copy() for n, shape in self.inputs.items()}
        for name, array in run(proto.SerializeToString(), feeds).items():
            _at(self.addresses[name], array.shape)[:] = array
        return self.library.runs


class FakeTensorRt:
    """As much of the library as the runner calls."""

    __version__ = "99.0"
    runs = True  # whether executions succeed
    fused: ClassVar[set[str]] = set()  # weights that cannot be refitted
    lost: ClassVar[set[str]] = set()  # weights that a refittable build drops
    missing: ClassVar[list[str]] = []
    DataType = SimpleNamespace(BF16="bf16")
    BuilderFlag = SimpleNamespace(STRICT_NANS=1)

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    @staticmethod
    def nptype(kind: type) -> type:
        return kind

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: FakeEngine(plan, self))

    @staticmethod
    def Weights(kind: type, address: int, size: int) -> NDArray:
        return _at(address, (size,)).copy()

    def Refitter(self, engine: FakeEngine, logger: Any) -> Any:
        stored = {t.name: numpy_helper.to_array(t) for t in loaded(engine.model).graph.initializer}

        def set_named_weights(name: str, values: NDArray) -> bool:
            engine.refits[name] = values.reshape(stored[name].shape)
            return True

        return SimpleNamespace(
            get_all_weights=lambda: [name for name in stored if name not in self.fused],
            get_weights_prototype=lambda name: SimpleNamespace(dtype=np.float32),
            get_missing_weights=lambda: self.missing,
            set_named_weights=set_named_weights,
            refit_cuda_engine=lambda: True,
        )


def _at(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(address)).reshape(shape)


class HostDriver:
    """Memory of the host in place of a GPU's."""

    name = "host"

    def __init__(self) -> None:
        self.memory: dict[int, NDArray[np.uint8]] = {}

    def allocate(self, nbytes: int) -> int:
        array = np.zeros(nbytes, np.uint8)
        self.memory[array.ctypes.data] = array
        return int(array.ctypes.data)

    def free(self, pointer: int) -> None:
        del self.memory[pointer]

    def to_device(self, pointer: int, source: NDArray[np.uint8]) -> None:
        ctypes.memmove(pointer, source.ctypes.data, source.nbytes)

    def to_host(self, target: NDArray[np.uint8], pointer: int) -> None:
        ctypes.memmove(target.ctypes.data, pointer, target.nbytes)

    def synchronize(self) -> None: ...

    def close(self) -> None:
        assert not self.memory, "memory of the GPU is not given back"


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


@pytest.fixture
def model(exported: Exported) -> bytes:
    return exported("pre-norm").SerializeToString()


def request(model: bytes, **settings: Any) -> EngineRequest:
    return EngineRequest(model, sha256_bytes(model), "deployment", **settings)


def test_an_engine_computes_and_tells_what_it_is(stand_in: Any, model: bytes) -> None:
    with TensorRtRunner(request(model)) as runner:
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
    with TensorRtRunner(request(model, mutable_weights=True)) as runner:
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
        TensorRtRunner(request(proto.SerializeToString(), mutable_weights=True))


def test_weights_that_tensorrt_does_not_give_out_are_refused_by_name(stand_in: Any, model: bytes) -> None:
    stand_in.fused = {"block.0.norm1.weight"}
    with TensorRtRunner(request(model, mutable_weights=True)) as runner:
        with pytest.raises(EngineError, match=r"'block\.0\.norm1\.weight' cannot be struck here: TensorRT fused it"):
            runner.weight("block.0.norm1.weight")
        runner.weight("head.bias")
        stand_in.missing = ["block.0.attn.q"]
        with pytest.raises(EngineError, match=r"TensorRT wants block\.0\.attn\.q refitted together with head\.bias"):
            runner.weight_changed("head.bias")
    with TensorRtRunner(request(model)) as fixed, pytest.raises(EngineError, match="without mutable weights"):
        fixed.weight("head.bias")


def test_a_batch_that_the_engine_was_not_built_for_is_refused(stand_in: Any, model: bytes) -> None:
    with TensorRtRunner(request(model, max_batch=4)) as runner:
        runner.run({"image": IMAGES[:4]})
        with pytest.raises(EngineError, match="a batch of 8 is more than the 4 this engine was built for"):
            runner.run({"image": IMAGES})


def test_faults_of_more_elements_than_the_engine_was_built_for_are_refused(stand_in: Any, model: bytes) -> None:
    table = site_table(model, "model")
    twin = instrument(model, table).SerializeToString()
    with (
        TensorRtRunner(request(twin, max_points=2)) as runner,
        pytest.raises(EngineError, match="faults of 3 elements are more than the 2 this engine was built for"),
    ):
        runner.run({"image": IMAGES, **PortFeed.idle(len(IMAGES), 3).as_inputs(table)})


def test_a_profile_spans_from_one_row_and_point_to_the_most(model: bytes) -> None:
    table = site_table(model, "model")
    signature = signature_of(loaded(instrument(model, table).SerializeToString()))
    sites = next(value for value in signature.inputs if value.name == "fault_site")
    build = Build("tensorrt", max_batch=8, max_points=5)
    assert [_sized(sites, *sizes) for sizes in build.sizes] == [(1, 1), (8, 5), (8, 5)]


def test_a_run_that_fails_is_an_engine_error(stand_in: Any, model: bytes) -> None:
    with TensorRtRunner(request(model)) as runner:
        stand_in.runs = False
        with pytest.raises(EngineError, match="TensorRT failed"):
            runner.run({"image": IMAGES})


def test_engine_files_are_cached_by_everything_they_are_made_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = []

    def build(model: bytes, asked: Build) -> bytes:
        built.append(asked)
        return b"plan %d" % len(built)

    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    monkeypatch.setattr(tensorrt_build, "tensorrt_library", lambda backend: SimpleNamespace(__version__="99.0"))
    monkeypatch.setattr(tensorrt_build, "build_ahead_of_time", build)
    first = cached_plan(b"m", "sha", Build("tensorrt"), "gpu")
    assert cached_plan(b"m", "sha", Build("tensorrt"), "gpu") == first == b"plan 1"
    others = [
        cached_plan(b"m", "another", Build("tensorrt"), "gpu"),
        cached_plan(b"m", "sha", Build("tensorrt", refittable=True), "gpu"),
        cached_plan(b"m", "sha", Build("tensorrt", max_batch=1), "gpu"),
        cached_plan(b"m", "sha", Build("tensorrt", max_points=2), "gpu"),
        cached_plan(b"m", "sha", Build("tensorrt-rtx"), "gpu"),
        cached_plan(b"m", "sha", Build("tensorrt"), "another"),
    ]
    assert len({first, *others}) == 7
    assert len(list((tmp_path / "tensorrt").iterdir())) == 7
