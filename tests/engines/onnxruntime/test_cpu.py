"""ONNX Runtime on the CPU: weights struck in place act as in a rebuilt engine, are restored, or are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from testbed.core.errors import EngineError, UsageError
from testbed.core.fault import Masks, masks_for
from testbed.core.formats import FP32
from testbed.core.site import Site, SiteTable
from testbed.engines.backends import check_engine
from testbed.engines.onnxruntime.cpu import OrtCpuRunner
from testbed.engines.runner import EngineRequest, faulty_weight, open_engine
from testbed.engines.weights import request_from
from testbed.export.onnx import export_onnx
from testbed.instrument.table import site_table
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from testbed.semantics import as_words, corrupt

IMAGES = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)
FEEDS = {"image": IMAGES}
LOUD = masks_for("flip", FP32, 30)
words = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A post-norm ViT with a convolution, whose weights ONNX Runtime would most like to lay out anew."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ViTConfig(
        image=4,
        patch=2,
        channels=1,
        width=8,
        heads=(2,),
        mlp=(8,),
        classes=3,
        head_width=4,
        patchify="conv",
        norm_order="post",
    )
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(ViT(config), torch.from_numpy(IMAGES), file, input_name="image")
    return file.read_bytes()


@pytest.fixture(scope="module")
def table(model: bytes) -> SiteTable:
    return site_table(model, "model")


@pytest.fixture(scope="module")
def mutable(model: bytes) -> OrtCpuRunner:
    return OrtCpuRunner(EngineRequest(model, "sha", "id", mutable_weights=True))


def output(runner: Any) -> NDArray[np.float32]:
    return runner.run(FEEDS)["head"]


def rebuilt(model: bytes, site: Site, index: int, masks: Masks) -> OrtCpuRunner:
    """An engine of the same settings, made from a file that holds the faulty weight."""
    proto = onnx.load_from_string(model)
    (stored,) = (i for i in proto.graph.initializer if i.name == site.tensor)
    array = np.array(numpy_helper.to_array(stored))
    canonical = array.T if site.transposed else array
    place = np.unravel_index(index, canonical.shape)
    canonical[place] = corrupt(canonical[place].reshape(1), *masks)[0]
    stored.CopyFrom(numpy_helper.from_array(array, site.tensor))
    return OrtCpuRunner(EngineRequest(proto.SerializeToString(), "sha", "id", mutable_weights=True))


def test_a_faulty_weight_acts_as_in_a_rebuilt_engine_for_every_tensor(
    model: bytes, table: SiteTable, mutable: OrtCpuRunner
) -> None:
    golden = output(mutable)
    rng = np.random.default_rng(0)
    for site in table.select("weight", ["*"]):
        for masks in (LOUD, masks_for("random", FP32, value=int(rng.integers(2**32)))):
            index = int(rng.integers(site.elements))
            with faulty_weight(mutable, site.tensor, site.stored_index(index), masks):
                faulty = output(mutable)
            with rebuilt(model, site, index, masks) as fresh:
                assert faulty.tobytes() == output(fresh).tobytes(), site.name
            assert output(mutable).tobytes() == golden.tobytes(), site.name


def test_a_loud_fault_changes_the_output_for_every_tensor(table: SiteTable, mutable: OrtCpuRunner) -> None:
    golden = output(mutable)
    for site in table.select("weight", ["*"]):
        with faulty_weight(mutable, site.tensor, site.elements // 3, LOUD):
            assert output(mutable).tobytes() != golden.tobytes(), site.name


@given(st.data(), st.tuples(words, words, words))
def test_a_weight_is_restored_bit_for_bit(mutable: OrtCpuRunner, data: st.DataObject, masks: Any) -> None:
    before = mutable.weight("head.weight").tobytes()
    index = data.draw(st.integers(0, 23))
    with faulty_weight(mutable, "head.weight", index, Masks(*masks)) as (value, faulty):
        assert as_words(mutable.weight("head.weight").reshape(-1))[index] == as_words(faulty)[0]
        assert corrupt(value, *masks).tobytes() == faulty.tobytes()
    assert mutable.weight("head.weight").tobytes() == before


def test_a_weight_is_restored_when_the_run_fails(mutable: OrtCpuRunner) -> None:
    before = mutable.weight("head.bias").tobytes()
    with pytest.raises(EngineError), faulty_weight(mutable, "head.bias", 0, LOUD):
        mutable.run({})
    assert mutable.weight("head.bias").tobytes() == before


def test_two_engines_do_not_share_their_weights(model: bytes, mutable: OrtCpuRunner) -> None:
    with OrtCpuRunner(EngineRequest(model, "sha", "id", mutable_weights=True)) as other:
        golden = output(other)
        with faulty_weight(mutable, "head.bias", 0, LOUD):
            assert output(other).tobytes() == golden.tobytes()


def test_an_engine_as_deployed_refuses_weight_faults(model: bytes) -> None:
    with (
        OrtCpuRunner(EngineRequest(model, "sha", "id")) as runner,
        pytest.raises(EngineError, match=r"'head\.bias' cannot be struck here: the engine was built without mutable"),
        faulty_weight(runner, "head.bias", 0, LOUD),
    ):
        pass


def test_the_two_settings_compute_the_same_model_and_are_named_apart(model: bytes, mutable: OrtCpuRunner) -> None:
    with OrtCpuRunner(EngineRequest(model, "sha", "id")) as deployed:
        np.testing.assert_allclose(output(deployed), output(mutable), rtol=0, atol=1e-5)
        assert deployed.info.hash != mutable.info.hash
        assert deployed.info.deployment_id == mutable.info.deployment_id == "id"


def test_the_hash_changes_with_everything_that_could_change_a_bit(model: bytes) -> None:
    request = EngineRequest(model, "sha", "id")
    others = [
        replace(request, threads=2),
        replace(request, file_sha256="other"),
        replace(request, deployment_id="other"),
    ]
    hashes = [OrtCpuRunner(r).info.hash for r in (request, *others)]
    assert len(set(hashes)) == 4
    assert OrtCpuRunner(request).info.hash == hashes[0]


@pytest.mark.parametrize("mutable_weights", [False, True])
@pytest.mark.parametrize("garbage", [b"", b"not a model", b"\x08\x07" * 100])
def test_garbage_is_refused_in_one_line(garbage: bytes, mutable_weights: bool) -> None:
    with pytest.raises(EngineError, match=r"this file is not ONNX|ONNX Runtime cannot build this model") as caught:
        OrtCpuRunner(EngineRequest(garbage, "sha", "id", mutable_weights=mutable_weights))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("feeds", [{}, {"image": IMAGES[:, :, :3]}, {"image": IMAGES, "more": IMAGES}])
def test_inputs_that_do_not_fit_are_refused_in_one_line(mutable: OrtCpuRunner, feeds: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="the model takes image") as caught:
        mutable.run(feeds)
    assert "\n" not in str(caught.value)


def test_a_closed_engine_runs_no_more(model: bytes) -> None:
    with OrtCpuRunner(EngineRequest(model, "sha", "id")) as runner:
        pass
    with pytest.raises(EngineError):
        output(runner)


def test_falling_back_to_another_provider_is_refused(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def get_providers(self) -> list[str]:
            return ["OtherExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(ort, "InferenceSession", Elsewhere)
    with pytest.raises(EngineError, match="fell back to OtherExecutionProvider"):
        OrtCpuRunner(EngineRequest(model, "sha", "id"))


def test_unknown_engines_and_precisions_are_refused_naming_the_known_ones(model: bytes) -> None:
    with pytest.raises(UsageError, match=r"unknown engine 'abacus'; known: .*ort-cpu"):
        open_engine("abacus", EngineRequest(model, "sha", "id"))
    with pytest.raises(UsageError, match=r"'ort-cpu' does not offer 'fp8'; it offers .*fp32"):
        check_engine("ort-cpu", "fp8")


def test_a_request_names_the_files_content(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"content")
    request = request_from(tmp_path / "a.onnx", "id", threads=3)
    assert (request.onnx, request.threads, len(request.file_sha256)) == (b"content", 3, 64)
