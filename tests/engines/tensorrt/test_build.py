"""TensorRT engines: really built ahead of time with TensorRT-RTX where that is installed (mark rtx), what is done to a
file before, and what is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from testbed.core.errors import EngineError
from testbed.engines.backends import available
from testbed.engines.gpu import cuda_devices
from testbed.engines.signature import loaded
from testbed.engines.tensorrt import build as tensorrt_build
from testbed.engines.tensorrt.build import (
    Build,
    build_ahead_of_time,
    cached_plan,
    deserialised,
    explain,
    logger_for,
    tensorrt_library,
)
from testbed.export.precision import Calibration, cast_model, quantise
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.table import site_table
from tests.support.fake_tensorrt import run
from tests.support.tensorrt_models import IMAGES, MODELS, Exported


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


def test_an_operator_of_ours_is_refused_before_the_parser_sees_it(exported: Exported) -> None:
    """With the fix, which the parser would not know."""
    content = exported("attention").SerializeToString()
    twin = instrument(content, site_table(content, "model", "op")).SerializeToString()
    with pytest.raises(EngineError, match=r"no operator testbed::FaultPort here; .* mechanism gated_replace"):
        build_ahead_of_time(twin)


@pytest.mark.parametrize("name", [*MODELS, "attention"])
def test_folding_constants_for_tensorrt_changes_no_result(exported: Exported, name: str) -> None:
    plain = exported(name)
    folded = tensorrt_build.fold_constants(plain)
    stored = {t.name for t in loaded(folded).graph.initializer}
    for node in loaded(folded).graph.node:
        assert node.op_type != "ReduceMean" or node.input[1] in stored
    example = np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32) if name == "attention" else IMAGES
    feeds = {plain.graph.input[0].name: example}
    (ours,), (theirs,) = (run(model, feeds).values() for model in (folded, plain.SerializeToString()))
    np.testing.assert_array_equal(ours, theirs)


def test_int32_biases_are_folded_for_tensorrt_and_change_no_result(exported: Exported) -> None:
    int8 = quantise(exported("pre-norm"), IMAGES, Calibration(8))
    folded = tensorrt_build.fold_constants(int8)
    assert any(t.data_type == onnx.TensorProto.INT32 for t in int8.graph.initializer)
    whole = {t.name for t in loaded(folded).graph.initializer if t.data_type == onnx.TensorProto.INT32}
    assert not whole & {node.input[0] for node in loaded(folded).graph.node if node.op_type == "DequantizeLinear"}
    (ours,), (theirs,) = (run(model, {"image": IMAGES}).values() for model in (folded, int8.SerializeToString()))
    np.testing.assert_array_equal(ours, theirs)


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
